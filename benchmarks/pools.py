"""Worker processes: what they weigh, and what a coroutine with a database call costs in one."""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import os
import time
from collections.abc import Coroutine
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import REPETITIONS, in_turn, plain, progress, ratio
from benchmarks.rendered import measure, render, settings
from benchmarks.serving import descendants, weight

if TYPE_CHECKING:
    from app.core.executors import ExecutorBackend
    from app.core.scheduling import Job

VARIANTS = ("sqlite", "postgresql")
CALLS = 100


def pools(work: Path) -> None:
    for database in VARIANTS:
        print(f"\n  two worker processes, on {database}", flush=True)
        measure("pools", render(work / database, database=database))


async def main() -> None:
    from app.core.executors.processpool import ProcesspoolExecutor
    from app.core.service import Service

    from benchmarks.jobs import plain_job, selecting_job, sleeping_job

    logging.getLogger("app").setLevel(logging.WARNING)
    with settings() as given:
        service = Service(given, {})
        await service.start()
        light, heavy, first, later = [], [], [], []
        for repetition in progress("pools", REPETITIONS + 1):
            before = set(descendants(os.getpid()))
            pool = ProcesspoolExecutor(given, service.database)
            began = await milliseconds(run(pool, plain_job))
            await asyncio.gather(*(run(pool, sleeping_job) for _ in range(2)))
            ours = sum(map(weight, set(descendants(os.getpid())) - before))
            for worker in pool._all:
                await worker.kill()
            began_again = await milliseconds(run(pool, plain_job))
            await pool.close()
            theirs = await asyncio.to_thread(spawned)
            if repetition:
                light.append(ours)
                heavy.append(theirs)
                first.append(began)
                later.append(began_again)
        plain("memory of two worker processes, and of what they are forked off", light, "MB")
        plain("of two spawned by ProcessPoolExecutor, with the app imported", heavy, "MB")
        ratio("memory: ratio", light, heavy, 0.5)
        plain("a function in the first worker process, its start included", first)
        plain("the same where one was ended before", later)

        pool = ProcesspoolExecutor(given, service.database)
        works = {
            "plain": lambda: run(pool, plain_job),
            "select": lambda: run(pool, selecting_job),
        }
        times = await in_turn(works, CALLS)
        plain("a function in a worker process", times["plain"])
        plain("a coroutine with one database call in it", times["select"])
        ratio("coroutine with a database call / function", times["select"], times["plain"], 7)
        await pool.close()
        await service.stop()


async def run(pool: ExecutorBackend, job: Job) -> None:
    from app.core.executors import Call

    now = datetime.now(UTC)
    ended = await pool.execute(Call(job, job.id, (), {}, now, attempt=1, fence=1, run_id=1))
    assert ended.outcome == "succeeded", ended.error


async def milliseconds(work: Coroutine[Any, Any, None]) -> float:
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1e3


def spawned() -> float:
    """The weight of two workers of a bare pool that have imported the application, in MB."""
    context = multiprocessing.get_context("spawn")
    load = (importlib.import_module, ("app.main",))
    with ProcessPoolExecutor(2, mp_context=context, initializer=load[0], initargs=load[1]) as pool:
        for done in [pool.submit(time.sleep, 0.2) for _ in range(2)]:
            done.result()
        return sum(weight(pid) for pid in pool._processes)


if __name__ == "__main__":
    asyncio.run(main())
