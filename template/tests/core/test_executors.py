"""Each executor runs `def` and `async def`, and tells the ledger how it ended."""

import asyncio
import functools
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.core.executors import asyncio_
from app.core.scheduling import Job, LockNotAcquired, lock, named_lock
from app.core.schema import job_counters
from app.core.service import Service
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import Scheduling, further_urls
from tests.core.waiting import is_alive, outcomes, runs, succeeded, until

pytestmark = pytest.mark.anyio
EXECUTORS = ("asyncio", "threadpool", "processpool")
PLACES = [
    (executor, job) for executor in EXECUTORS for job in (sample_jobs.note, sample_jobs.note_async)
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def service(new_database: Callable[[], str], anyio_backend: str) -> AsyncIterator[Service]:
    """One for all tests here: its worker processes are started once."""
    urls: dict[str, Any] = {"database_url": SecretStr(new_database()), **further_urls()}
    service = Service(Settings(environment="test", **urls), {})
    await service.start()
    yield service
    await service.stop()


async def add(service: Service, job: Job, executor: str, **kwargs: Any) -> str:
    """Add a one-off job to this process's memory; returns its id."""
    added = await service.scheduler.add_job_async(
        job, jobstore="memory", executor=executor, kwargs=kwargs
    )
    return str(added.id)


async def test_every_executor_runs_functions_and_coroutines_where_it_says(
    service: Service, tmp_path: Path
) -> None:
    async def check(executor: str, job: Job) -> None:
        file = tmp_path / f"{executor}-{job.name}"
        id = await add(service, job, executor, file=str(file))
        assert await outcomes(service.database, id) == ["succeeded"]
        pid, thread, _ = file.read_text().split()
        assert (int(pid) == os.getpid()) == (executor != "processpool")
        if executor == "asyncio" and job.is_async:
            assert thread == threading.current_thread().name
        elif executor != "processpool":
            assert thread != threading.current_thread().name

    await asyncio.gather(*(check(executor, job) for executor, job in PLACES))


async def test_the_guides_own_words_work_in_memory(service: Service, tmp_path: Path) -> None:
    """An async method of a picklable service, in a process pool: it fails on APScheduler itself."""
    file = tmp_path / "note"
    service_of_mine = sample_jobs.Service(str(file))
    service.scheduler.add_job(
        service_of_mine.run_public_contract_aggregation_job,
        "interval",
        seconds=0.1,
        id="public_contract_aggregation",
        name="Public Contract Aggregation Task",
        replace_existing=True,
        executor="processpool",
        jobstore="memory",
    )
    await succeeded(service.database, "public_contract_aggregation")
    service.scheduler.remove_job("public_contract_aggregation")
    assert int(file.read_text().split()[0]) != os.getpid()


async def test_a_failure_is_recorded_as_what_it_is_and_hurts_no_other(
    service: Service, tmp_path: Path
) -> None:
    async def check(executor: str) -> None:
        bad = await add(service, sample_jobs.fail, executor)
        worse = await add(service, sample_jobs.fail_async, executor)
        good = await add(service, sample_jobs.note, executor, file=str(tmp_path / executor))
        assert await outcomes(service.database, good) == ["succeeded"]
        for id in (bad, worse):
            assert await outcomes(service.database, id) == ["failed"]
            assert "Unpicklable: this and that" in (await runs(service.database, id))[0].error

    await asyncio.gather(*map(check, EXECUTORS))


async def test_a_worker_process_that_is_killed_fails_its_own_run_only(
    service: Service, tmp_path: Path
) -> None:
    """And it leaves no half of what that run was writing."""

    async def counter() -> int:
        async with service.database.reading() as connection:
            statement = select(job_counters.c.value)
            return int((await connection.execute(statement)).scalar_one())

    before = await counter()
    dead = await add(service, sample_jobs.half, "processpool", crash=True)
    notes = [str(tmp_path / f"note{number}") for number in range(3)]
    others = [await add(service, sample_jobs.chatter, "processpool", file=f) for f in notes]
    assert await outcomes(service.database, dead) == ["failed"]
    assert "exit code 9" in (await runs(service.database, dead))[0].error
    for id in others:
        assert await outcomes(service.database, id) == ["succeeded"]
    assert await counter() == before
    whole = await add(service, sample_jobs.half, "processpool", crash=False)
    assert await outcomes(service.database, whole) == ["succeeded"]
    assert await counter() == before + 2000


async def test_a_worker_that_died_while_idle_costs_no_run(service: Service, tmp_path: Path) -> None:
    for number in range(2):
        file = tmp_path / f"note{number}"
        id = await add(service, sample_jobs.note, "processpool", file=str(file))
        assert await outcomes(service.database, id) == ["succeeded"]
        if number == 0:
            os.kill(int(file.read_text().split()[0]), 9)


async def test_a_job_cannot_end_the_service_nor_forget_a_coroutine(service: Service) -> None:
    jobs = (sample_jobs.leave, sample_jobs.forget)
    for job in jobs:
        added = [await add(service, job, executor) for executor in EXECUTORS]
        for id in added:
            assert await outcomes(service.database, id) == ["failed"]


async def test_a_coroutine_that_holds_the_loop_is_named(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_, "_LONGEST_STEP", 0.05)
    id = await add(service, sample_jobs.hold_the_loop, "asyncio")
    assert await outcomes(service.database, id) == ["succeeded"]
    held = re.search(rf"{id}\S* held the event loop for (\d+\.\d) s", caplog.text)
    assert held
    assert float(held[1]) >= 0.1


async def test_an_error_that_no_database_can_store_is_recorded(service: Service) -> None:
    id = await add(service, sample_jobs.fail_unspeakably, "threadpool")
    assert await outcomes(service.database, id) == ["failed"]


async def test_arguments_that_cannot_be_sent_fail_the_run(service: Service) -> None:
    id = await add(service, sample_jobs.note, "processpool", file=lambda: "unpicklable")
    assert await outcomes(service.database, id) == ["failed"]
    assert "cannot be sent to a worker" in (await runs(service.database, id))[0].error


async def test_an_executor_that_is_not_there_is_refused(
    service: Service, scheduling: Scheduling, declare: Callable[..., Job]
) -> None:
    with pytest.raises(ValueError, match="executor='nowhere' is none of 'asyncio'"):
        await add(service, sample_jobs.note, "nowhere")
    with pytest.raises(ValueError, match="@job fail: executor='nowhere' is none of"):
        async with scheduling(declare(sample_jobs.fail.function, id="fail", executor="nowhere")):
            pass


async def test_a_worker_process_and_the_service_exclude_each_other(
    service: Service, tmp_path: Path
) -> None:
    named_lock.use(service._named_locks)
    file, freed = tmp_path / "note", tmp_path / "freed"
    arguments = {"file": str(file), "until": str(freed)}
    id = await add(service, sample_jobs.hold_lock, "processpool", **arguments)
    await until(lambda: asyncio.sleep(0, file.exists()))
    with pytest.raises(LockNotAcquired):
        async with lock("shared"):
            pass
    asyncio.get_running_loop().call_later(0.05, freed.touch)
    async with lock("shared", wait=20):
        assert freed.exists()
    assert await outcomes(service.database, id) == ["succeeded"]


async def test_a_time_out_is_real_on_every_executor(service: Service, tmp_path: Path) -> None:
    """Last here: it costs two worker processes, and none of them need be started again."""

    async def check(executor: str, job: Job) -> str:
        id = await add(service, job, executor)
        assert await outcomes(service.database, id) == ["timed_out"]
        (row,) = await runs(service.database, id)
        assert "timeout of 0.1 s" in row.error
        in_thread = executor != "processpool" and not job.is_async
        # A thread runs on: until it has ended, the job must not overlap.
        assert (row.active_key is not None) == (row.lease_until is not None) == in_thread
        return id

    async def released(id: str) -> bool:
        (row,) = await runs(service.database, id)
        return row.active_key is None and row.lease_until is None

    jobs = (sample_jobs.sleep_too_long, sample_jobs.sleep_too_long_async)
    places = [(executor, job) for executor in EXECUTORS for job in jobs]
    places.remove(("processpool", sample_jobs.sleep_too_long))
    hanging = asyncio.create_task(
        what_a_job_starts_is_ended_with_it_and_cannot_reach_its_pipes(service, tmp_path)
    )
    ids = await asyncio.gather(*(check(executor, job) for executor, job in places))
    await hanging
    sample_jobs.let_go.set()
    for id in ids:
        await until(functools.partial(released, id))


async def what_a_job_starts_is_ended_with_it_and_cannot_reach_its_pipes(
    service: Service, tmp_path: Path
) -> None:
    """A time-out in a worker process, too."""
    file = tmp_path / "pid"

    async def has_started() -> int:
        """A busy machine may not come that far in time."""
        id = await add(service, sample_jobs.start_and_hang, "processpool", file=str(file))
        assert await outcomes(service.database, id) == ["timed_out"]
        return int((file.exists() and file.read_text()) or 0)

    started = await until(has_started, 60)
    await until(lambda: asyncio.sleep(0, not is_alive(started)))
