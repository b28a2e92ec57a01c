"""Each executor runs `def` and `async def`, and tells the ledger how it ended."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from app.core.scheduling import Job
from app.core.service import Service
from tests.core import sample_jobs
from tests.core.fixtures import Scheduling
from tests.core.waiting import outcomes, runs, until

pytestmark = pytest.mark.anyio
EXECUTORS = ("asyncio", "threadpool", "processpool")
PLACES = [
    (executor, job) for executor in EXECUTORS for job in (sample_jobs.note, sample_jobs.note_async)
]


async def add(service: Service, job: Job, executor: str, **kwargs: Any) -> str:
    """Add a one-off job to this process's memory; returns its id."""
    added = await service.scheduler.add_job_async(
        job, jobstore="memory", executor=executor, kwargs=kwargs
    )
    return str(added.id)


async def test_every_executor_runs_functions_and_coroutines_where_it_says(
    scheduling: Scheduling, tmp_path: Path
) -> None:
    async with scheduling() as service:
        for executor, job in PLACES:
            file = tmp_path / f"{executor}-{job.name}"
            id = await add(service, job, executor, file=str(file))
            assert await outcomes(service.database, id) == ["succeeded"]
            pid, thread = file.read_text().split()
            assert (int(pid) == os.getpid()) == (executor != "processpool")
            if executor == "asyncio" and job.is_async:
                assert thread == threading.current_thread().name
            elif executor != "processpool":
                assert thread != threading.current_thread().name


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_failure_is_recorded_as_what_it_is_and_hurts_no_other(
    scheduling: Scheduling, tmp_path: Path, executor: str
) -> None:
    async with scheduling() as service:
        bad = await add(service, sample_jobs.fail, executor)
        worse = await add(service, sample_jobs.fail_async, executor)
        good = await add(service, sample_jobs.note, executor, file=str(tmp_path / "note"))
        assert await outcomes(service.database, good) == ["succeeded"]
        for id in (bad, worse):
            assert await outcomes(service.database, id) == ["failed"]
            assert "Unpicklable: this and that" in (await runs(service.database, id))[0].error


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_time_out_is_real(scheduling: Scheduling, executor: str) -> None:
    async with scheduling() as service:
        function = await add(service, sample_jobs.sleep_too_long, executor)
        coroutine = await add(service, sample_jobs.sleep_too_long_async, executor)
        for id in (function, coroutine):
            assert await outcomes(service.database, id) == ["timed_out"]
            assert "timeout of 0.1 s" in (await runs(service.database, id))[0].error

        async def released() -> bool:
            return all(row.active_key is None for row in await runs(service.database))

        assert await until(released)


async def test_a_thread_that_runs_on_after_its_time_out_keeps_the_job_from_overlapping(
    scheduling: Scheduling,
) -> None:
    async with scheduling() as service:
        id = await add(service, sample_jobs.sleep_too_long, "threadpool")
        assert await outcomes(service.database, id) == ["timed_out"]
        row = (await runs(service.database, id))[0]
        assert row.active_key
        assert row.lease_until


async def test_a_worker_process_that_is_killed_fails_its_own_run_only(
    scheduling: Scheduling, tmp_path: Path
) -> None:
    async with scheduling() as service:
        dead = await add(service, sample_jobs.die, "processpool")
        left = await add(service, sample_jobs.leave, "processpool")
        assert await outcomes(service.database, dead) == ["failed"]
        assert "exit code 7" in (await runs(service.database, dead))[0].error
        assert await outcomes(service.database, left) == ["failed"]
        for number in range(3):
            file = str(tmp_path / f"note{number}")
            id = await add(service, sample_jobs.chatter, "processpool", file=file)
            assert await outcomes(service.database, id) == ["succeeded"]


async def test_a_job_that_leaves_a_thread_or_the_loop_fails(scheduling: Scheduling) -> None:
    async with scheduling() as service:
        for executor in ("threadpool", "asyncio"):
            id = await add(service, sample_jobs.leave, executor)
            assert await outcomes(service.database, id) == ["failed"]


async def test_no_process_outlives_the_service(scheduling: Scheduling, tmp_path: Path) -> None:
    file = tmp_path / "note"
    async with scheduling() as service:
        id = await add(service, sample_jobs.note, "processpool", file=str(file))
        await outcomes(service.database, id)
        pid = int(file.read_text().split()[0])
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
