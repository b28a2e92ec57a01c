"""Jobs that are due in the same second: how late they begin, and how long the loop stands still.

Against APScheduler itself with its memory store, which claims and records nothing.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.away import away
from benchmarks.figures import REPETITIONS, p99, plain, progress, ratio
from benchmarks.rendered import measure, rendered, settings, urls

if TYPE_CHECKING:
    from app.settings import Settings

COUNTS = [int(count) for count in os.environ.get("COUNTS", "10,100,1000,10000").split(",")]
VARIANTS = (
    {"lock_backend": "memory", "job_store": "memory"},
    {"lock_backend": "database"},
    {"database": "postgresql", "lock_backend": "database"},
    {"database": "postgresql", "lock_backend": "redis", "job_store": "redis"},
)
Lags = list[float]


def firing(work: Path) -> None:
    for folder in rendered(work, VARIANTS, "", executor="asyncio"):
        measure("firing", folder)


async def longest_pause(until: Callable[[], bool]) -> float:
    """The longest gap of a 1 ms heartbeat, in milliseconds."""
    longest, last = 0.0, time.perf_counter()
    while not until():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last - 0.001), now
    return longest * 1e3


async def watched(
    count: int, at: float, lags: Lags, start: Callable[[], Awaitable[object]]
) -> float:
    """Start a scheduler whose jobs are due `at`, and watch the loop until all have begun."""
    await start()
    assert time.time() < at - 0.5, "the start took too long: the jobs are due already"
    gc.collect()
    gc.freeze()
    await asyncio.sleep(at - 0.3 - time.time())
    deadline = at + 120
    pause = await longest_pause(lambda: len(lags) >= count or time.time() > deadline)
    assert len(lags) == count, f"{len(lags)} of {count} began"
    return pause


async def stock(count: int) -> tuple[Lags, float]:
    module = importlib.import_module("apscheduler.schedulers.asyncio")  # which is untyped
    scheduler, lags = module.AsyncIOScheduler(timezone="UTC"), Lags()
    at = time.time() // 1 + 2 + count // 2_000

    async def body() -> None:
        lags.append((time.time() - at) * 1e3)

    async def start() -> None:
        for number in range(count):
            due = {"run_date": datetime.fromtimestamp(at, UTC), "misfire_grace_time": None}
            scheduler.add_job(body, "date", id=str(number), **due)
        scheduler.start()

    pause = await watched(count, at, lags, start)
    scheduler.shutdown(wait=False)
    await asyncio.sleep(0.1)
    return lags, pause


async def ours(given: Settings, count: int) -> tuple[Lags, float]:
    from app.core.scheduling import date, job
    from app.core.scheduling.answers import Fire, Won
    from app.core.service import Service

    lags = Lags()
    at = time.time() // 1 + 3 + count // 500

    async def body() -> None:
        lags.append((time.time() - at) * 1e3)

    declared = job(date(datetime.fromtimestamp(at, UTC)), id="body", executor="asyncio")(body)
    stamp = time.time_ns()
    jobs = {
        f"job-{stamp}-{number}": replace(declared, id=f"job-{stamp}-{number}")
        for number in range(count)
    }
    service = Service(given, jobs)

    async def start() -> None:
        await service.start()
        # Statements are compiled once in the life of a service.
        for _ in range(2):
            warm = [
                Fire(f"warm-{time.time_ns()}-{n}", time.time_ns() // 1000, None) for n in (1, 2)
            ]
            won = [answer for answer in await service.ledger.claim(warm) if isinstance(answer, Won)]
            await asyncio.gather(
                *(service.ledger.finish(each.fence, "succeeded", attempt=1) for each in won)
            )
            await service.ledger.finish(won[0].fence, "succeeded", attempt=1)

    pause = await watched(count, at, lags, start)
    await service.stop()
    return lags, pause


async def main() -> None:
    logging.disable(logging.CRITICAL)
    with settings() as given:
        for count in COUNTS:
            repetitions = REPETITIONS if count < 10_000 else max(2, REPETITIONS // 3)
            late: dict[str, list[float]] = {"stock": [], "ours": []}
            pauses: dict[str, list[float]] = {"stock": [], "ours": []}
            for repetition in progress(f"{count:,} jobs", repetitions + 1):
                for name, work in (("stock", stock(count)), ("ours", ours(given, count))):
                    lags, pause = await work
                    if repetition:
                        late[name].append(p99(lags))
                        pauses[name].append(pause)
            plain(f"{count:6,} jobs due at once: 99 % began within", late["ours"])
            ratio("       / APScheduler's memory store", late["ours"], late["stock"], 2)
            plain("       the loop's longest pause", pauses["ours"])
            plain("       APScheduler's", pauses["stock"])
            assert statistics.median(late["ours"]) > 0
        await read_at_once(given)
        if any(not url.startswith("sqlite") for url in urls(given).values()):
            await at_a_distance(given)


async def read_at_once(given: Settings) -> None:
    """What others added to the store meanwhile, read in one poll."""
    from app.core import wiring
    from app.core.database import Database
    from app.core.scheduling import date, job
    from app.core.schema import job_definitions
    from app.core.service import Service
    from app.core.stores import Definition
    from sqlalchemy import insert, select

    async def body() -> None: ...

    if wiring.JOB_STORE != "database":
        return
    declared, due = job(id="body", executor="asyncio")(body), time.time() + 3600
    trigger = date(datetime.fromtimestamp(due, UTC)).to_json()
    database = Database(given, wiring.database.DIALECT)
    store = wiring.store.definitions(given, database)
    assert store
    await store.add(Definition("first", "body", {}, trigger), replace=True)
    async with database.writing() as connection:
        (row,) = (await connection.execute(select(job_definitions))).mappings()
        rows = [{**row, "id": f"more-{number}"} for number in range(COUNTS[-1])]
        await connection.execute(insert(job_definitions), rows)
    service = Service(given, {"body": declared})
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(service.start())
        pause = await longest_pause(starting.done)
    held = [each async for each in service.scheduler.get_jobs_async()]
    assert len(held) == len(rows) + 1
    plain(f"{len(rows):6,} jobs read from the store at once: the loop's longest pause", [pause])
    await service.stop()
    await database.close()


async def at_a_distance(given: Settings) -> None:
    """A server that takes its time holds no loop."""
    with away(given) as far:
        for count in COUNTS[-2:]:
            found = []
            for repetition in progress(f"{count:,} jobs, 2 ms away", 3):
                lags, pause = await ours(far, count)
                if repetition:
                    found.append((p99(lags), pause))
            late, pauses = zip(*found, strict=True)
            plain(f"{count:6,} jobs, servers 2 ms away: 99 % began within", late)
            plain("       the loop's longest pause", pauses)


if __name__ == "__main__":
    asyncio.run(main())
