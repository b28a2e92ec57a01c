"""A server that is frozen: how long the loop stands still, and how soon work goes on afterwards."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import redis

from benchmarks.figures import plain
from benchmarks.firing import longest_pause
from benchmarks.rendered import measure, rendered, settings

if TYPE_CHECKING:
    from app.settings import Settings

VARIANTS = (
    {"database": "sqlite"},
    {"database": "postgresql"},
    {"database": "postgresql", "lock_backend": "redis"},
)
SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))
JOBS = 50


def outage(work: Path) -> None:
    what = f"{JOBS} jobs a second, away for {SECONDS:g} s: "
    for folder in rendered(work, VARIANTS, what, executor="asyncio"):
        measure("outage", folder)


async def main() -> None:
    from app.core.scheduling import interval, job
    from app.core.service import Service

    logging.disable(logging.CRITICAL)
    begun: list[float] = []

    async def body() -> None:
        begun.append(time.time())

    declared = job(interval(seconds=1), id="body", executor="asyncio")(body)
    jobs = {name: replace(declared, id=name) for name in (f"job-{n}" for n in range(JOBS))}
    with settings() as given:
        given = given.model_copy(update={"lease_seconds": 30.0})
        service = Service(given, jobs)
        await service.start()
        gc.freeze()  # as the application does
        await asyncio.sleep(3)
        assert begun
        with away(given):
            until = time.time() + SECONDS
            pause = await longest_pause(lambda: time.time() > until)
            before = len(begun)
        back = time.time()
        after = await longest_pause(lambda: len(begun) > before or time.time() > back + 60)
        plain("the loop's longest pause, goal: at most 100 ms", [pause, after])
        plain("until the next run, goal: at most 2 s", [time.time() - back], "s")
        await service.stop()


@contextmanager
def away(given: Settings) -> Iterator[None]:
    """The server whose word counts stands still: its processes, or whoever wants to write."""
    from app.core import wiring

    url = given.database_url.get_secret_value()
    if wiring.LOCK_BACKEND == "redis":
        lock = given.model_dump()["lock_url"].get_secret_value()
        with closing(redis.Redis.from_url(lock)) as client:
            pid = client.info("server")["process_id"]
        with frozen([psutil.Process(pid)]):
            yield
    elif wiring.DATABASE == "postgresql":
        with psycopg.connect(url) as connection:
            session = psutil.Process(connection.info.backend_pid)
        server = session.parent()
        assert server
        with frozen([server, *server.children()]):
            yield
    else:
        file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        with closing(file):
            file.execute("BEGIN EXCLUSIVE")
            yield
            file.execute("ROLLBACK")


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        if process.is_running():
            os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                os.kill(process.pid, signal.SIGCONT)


if __name__ == "__main__":
    asyncio.run(main())
