"""A job's trip through an executor, against the bare pool; and with its claim and its record."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Work, in_turn, plain, ratio
from benchmarks.rendered import measure, render, settings

if TYPE_CHECKING:
    from app.core.executors import ExecutorBackend
    from app.core.scheduling.declaration import Job
    from app.core.scheduling.runner import Runner

CALLS, GOAL = 100, 1.3
_numbers = count(1)


def executors(work: Path) -> None:
    print("\n  an empty job, on SQLite", flush=True)
    measure("executors", render(work / "service", executor="asyncio"))


async def main() -> None:
    from app.core.service import Service

    from benchmarks.jobs import coroutine_job, nothing, nothing_async, plain_job

    async def task() -> None:
        await asyncio.create_task(nothing_async())

    def pooled(pool: Executor) -> Work:
        async def work() -> None:
            await asyncio.get_running_loop().run_in_executor(pool, nothing)

        return work

    with settings() as given, ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2) as processes:
        logging.getLogger("app").setLevel(logging.WARNING)
        bare = {
            "asyncio": task,
            "threadpool": pooled(threads),
            "processpool": pooled(processes),
        }
        service = Service(given, {})
        await service.start()
        service.runner.wanted = lambda entry: True  # the scheduler knows none of these
        for name, pool in bare.items():
            job = coroutine_job if name == "asyncio" else plain_job
            works = {
                "bare": pool,
                "executor": execution(service.runner.executors[name], job),
                "whole": whole_run(service.runner, name, job),
            }
            times = await in_turn(works, CALLS)
            plain(f"{name}: bare", times["bare"])
            plain(f"{name}: through the executor", times["executor"])
            ratio(f"{name}: the executor / bare", times["executor"], times["bare"], GOAL)
            plain(f"{name}: a whole run (claim, body, record)", times["whole"])
        await service.stop()


def execution(executor: ExecutorBackend, job: Job) -> Work:
    from app.core.executors import Call

    now = datetime.now(UTC)

    async def work() -> None:
        call = Call(job, job.id, (), {}, fire_time=now, attempt=1, fence=1, run_id=1)
        # In a task of its own, as the runner starts it and as the bare ones are.
        ended = await asyncio.create_task(executor.execute(call))
        assert ended.outcome == "succeeded", ended.error

    return work


def whole_run(runner: Runner, executor: str, job: Job) -> Work:
    from app.core.scheduling.entry import Entry, Settlement

    async def work() -> None:
        done: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        key = f"{job.id}-{next(_numbers)}"
        entry = Entry(key, job, (), {}, executor, origin="store")
        runner.submit(entry, int(time.time() * 1e6), done.set_result)
        assert (await done).outcome == "succeeded"

    return work


if __name__ == "__main__":
    asyncio.run(main())
