"""Workers run what was claimed elsewhere: once, whatever becomes of them."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.core.scheduling import interval
from app.core.scheduling.queue import Queue
from app.core.schema import job_runs
from app.core.service import Service
from app.core.worker import Worker
from app.core.worker import _main as main
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import BRIEF_LEASE, Scheduling, environment, servers, time_goes_by
from tests.core.waiting import outcomes, runs, succeeded, until
from tests.core.working import JOBS, Process, brief, hanging, lasting

pytestmark = pytest.mark.anyio
Start = Callable[..., Process]
SOON = interval(seconds=0.5)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FILE", str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.fixture
def start(settings: Settings, notes: Path) -> Iterator[Start]:
    """Start a worker as a process of its own."""
    started: list[Process] = []

    def start(**more: str) -> Process:
        more = {"SHUTDOWN_GRACE_SECONDS": "0.2", "MAX_WORKERS": "2", **more}
        started.append(Process(environment(settings, **more)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """A worker in this process."""
    worker = Worker(settings, JOBS)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


def lines(notes: Path) -> list[list[str]]:
    return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []


async def noted(notes: Path, count: int = 1) -> list[list[str]]:
    return list(
        await until(lambda: asyncio.sleep(0.01, lines(notes) if len(lines(notes)) >= count else 0))
    )


async def ask(service: Service, job: object, **kwargs: object) -> str:
    """A run of the job, now, for a worker."""
    added = await service.scheduler.add_job_async(job, jobstore="memory", kwargs=kwargs)
    return str(added.id)


async def test_a_fire_is_claimed_here_and_runs_on_a_worker(
    scheduling: Scheduling, start: Start, notes: Path
) -> None:
    worker = start()
    async with scheduling(replace(brief, schedule=SOON)) as here:
        row = await succeeded(here.database, "brief")
        assert row.replica != here.ledger.replica
        assert row.attempt == 1
    assert lines(notes)[0] == ["brief", "did", "1", str(worker.pid)]


async def test_a_worker_runs_the_functions_and_coroutines_that_every_executor_runs(
    scheduling: Scheduling, start: Start, tmp_path: Path
) -> None:
    """As they are: coroutines on its loop, functions in a process of its own."""
    worker = start()
    where = {}
    async with scheduling() as here:
        for job in (sample_jobs.note, sample_jobs.note_async):
            id = await ask(here, job, file=str(tmp_path / job.id))
            assert await outcomes(here.database, id) == ["succeeded"]
            where[job] = int((tmp_path / job.id).read_text().split()[0])
    assert where[sample_jobs.note_async] == worker.pid
    assert where[sample_jobs.note] not in (worker.pid, os.getpid())


async def test_arguments_arrive_and_a_message_that_comes_again_runs_nothing(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with working(settings) as worker, scheduling() as here:
        id = await ask(here, brief, word="ü")
        assert await outcomes(here.database, id) == ["succeeded"]
        assert [line[:3] for line in lines(notes)] == [["brief", "ü", "1"]]
        (row,) = await runs(here.database, id)
        message = {"key": row.job, "job": "brief", "kwargs": {}, "fire_time": row.fire_time}
        await worker.handle(message)
        await worker.handle({**message, "job": "unknown to this version"})
        assert len(lines(notes)) == 1


async def test_a_message_that_comes_again_takes_over_no_run_that_has_begun(
    scheduling: Scheduling, notes: Path
) -> None:
    async with scheduling() as here:
        id = await ask(here, brief)
        (row,) = await until(lambda: runs(here.database, id))
        queue = Queue(here.ledger)
        assert await queue.start(row.job, row.fire_time)
        (begun,) = await runs(here.database, id)
        assert await queue.start(row.job, row.fire_time) is None
        assert [after.fence for after in await runs(here.database, id)] == [begun.fence]


@BRIEF_LEASE
async def test_what_is_due_while_no_worker_is_there_waits_and_is_sent_again_seldom(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with scheduling() as here:
        id = await ask(here, brief)

        async def sent(times: int) -> bool:
            return any(row.sent and row.sent >= times for row in await runs(here.database, id))

        await until(lambda: sent(2))
        (row,) = await runs(here.database, id)
        assert row.outcome is None
        assert row.lease_until - row.claimed_at > 1.5 * settings.lease_seconds * 1e6
        async with working(settings.model_copy(update={"lease_seconds": 30})):
            assert await outcomes(here.database, id) == ["succeeded"]
        assert len(lines(notes)) == 1


async def test_the_run_of_a_killed_worker_is_taken_over_by_another(
    scheduling: Scheduling, settings: Settings, start: Start, notes: Path
) -> None:
    first = start()
    async with scheduling() as here:
        id = await ask(here, hanging)
        assert (await noted(notes))[0][1:3] == ["began", "1"]
        first.kill()
        first.ended()
        time_goes_by(settings, here.database, 60)
        start()
        assert await outcomes(here.database, id) == ["succeeded"]
        (row,) = await runs(here.database, id)
        assert row.attempt == 2
        assert [past["outcome"] for past in json.loads(row.attempts)] == ["lost"]
    assert [line[1:3] for line in lines(notes)] == [["began", "1"], ["began", "2"], ["ended", "2"]]


async def test_a_worker_that_is_told_to_stop_gives_back_what_it_cannot_end(
    scheduling: Scheduling, start: Start, notes: Path
) -> None:
    first = start()
    async with scheduling() as here:
        id = await ask(here, hanging)
        await noted(notes)
        first.terminate()
        assert await asyncio.to_thread(first.ended) == 0
        start()
        assert await outcomes(here.database, id) == ["succeeded"]
        (row,) = await runs(here.database, id)
        assert [past["outcome"] for past in json.loads(row.attempts)] == ["interrupted"]


async def test_a_worker_that_is_told_to_stop_lets_what_runs_come_to_its_end(
    scheduling: Scheduling, start: Start, notes: Path
) -> None:
    worker = start(SHUTDOWN_GRACE_SECONDS="600")
    async with scheduling() as here:
        id = await ask(here, lasting)
        await noted(notes)
        worker.terminate()
        late = await ask(here, brief)
        await until(lambda: runs(here.database, late))
        notes.with_name("notes.go").touch()
        assert await asyncio.to_thread(worker.ended) == 0
        (row,) = await runs(here.database, id)
        assert (row.outcome, row.attempt) == ("succeeded", 1)
    assert [line[1] for line in lines(notes)] == ["began", "ended"]


async def test_a_worker_ends_with_a_message_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "soon")
    with pytest.raises(SystemExit, match="cannot start with these settings:\nLEASE_SECONDS='soon'"):
        await main()


async def test_a_second_signal_ends_the_wait(
    scheduling: Scheduling, start: Start, notes: Path
) -> None:
    worker = start(SHUTDOWN_GRACE_SECONDS="600")
    async with scheduling() as here:
        await ask(here, hanging)
        await noted(notes)
        began = time.monotonic()
        while worker.is_alive():
            worker.send(signal.SIGINT)
            await asyncio.sleep(0.2)
        assert time.monotonic() - began < 60


@BRIEF_LEASE
async def test_a_frozen_worker_changes_nothing_when_it_comes_back(
    scheduling: Scheduling, start: Start, notes: Path
) -> None:
    frozen = start()
    async with scheduling() as here:
        id = await ask(here, hanging)
        await noted(notes)
        frozen.send(signal.SIGSTOP)
        start()
        assert await outcomes(here.database, id) == ["succeeded"]
        frozen.send(signal.SIGCONT)
        before = await runs(here.database, id)
        # It is told so at its next heartbeat, and ends its own run.
        frozen.terminate()
        assert await asyncio.to_thread(frozen.ended) == 0
        assert await runs(here.database, id) == before
    assert [line[1:3] for line in lines(notes)].count(["ended", "2"]) == 1
    assert ["ended", "1"] not in [line[1:3] for line in lines(notes)]


async def test_a_job_that_is_paused_while_it_waits_does_not_run_until_it_is_resumed(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with scheduling(replace(brief, schedule=SOON)) as here:
        await until(lambda: runs(here.database, "brief"))
        await here.scheduler.pause_job_async("brief")
        async with working(settings) as worker:
            (row, *_) = await runs(here.database, "brief")
            message = {"key": "brief", "job": "brief", "kwargs": {}, "fire_time": row.fire_time}
            await worker.handle(message)
            assert lines(notes) == []
            await here.scheduler.resume_job_async("brief")
            await worker.handle(message)
            await noted(notes)


@BRIEF_LEASE
async def test_what_waits_for_a_worker_is_not_sent_again_while_its_job_is_paused(
    scheduling: Scheduling, settings: Settings
) -> None:
    """Each sending waits twice as long for the next: it would be late when it is resumed."""
    async with scheduling(replace(brief, schedule=SOON)) as here:

        async def waiting() -> list[Any]:
            """Beside what a busy machine has missed."""
            return [row for row in await runs(here.database, "brief") if row.sent]

        await until(waiting)
        await here.scheduler.pause_job_async("brief")
        time_goes_by(settings, here.database, 60)
        assert not await Queue(here.ledger).overdue()
        (before, *_) = await waiting()
        await here.scheduler.resume_job_async("brief")

        async def is_sent_again() -> bool:
            (row, *_) = await waiting()
            return bool(row.sent > before.sent)

        await until(is_sent_again)


async def test_a_run_that_starts_while_its_worker_stops_is_given_back(
    scheduling: Scheduling, settings: Settings, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scheduling() as here:
        id = await ask(here, brief)
        await until(lambda: runs(here.database, id))
        (row,) = await runs(here.database, id)
        worker = Worker(settings, JOBS)
        start = worker._queue.start

        async def start_late(*arguments: Any) -> Any:
            started = await start(*arguments)
            worker.stop_taking()
            return started

        monkeypatch.setattr(worker._queue, "start", start_late)
        message = {"key": row.job, "job": "brief", "kwargs": {}, "fire_time": row.fire_time}
        await worker.handle(message)
        await worker.stop()
        assert lines(notes) == []
    async with scheduling() as here:
        (row,) = await runs(here.database, id)
        assert [past["outcome"] for past in json.loads(row.attempts)] == ["interrupted"]


@pytest.mark.parametrize("lease_seconds", [600])
async def test_a_database_that_is_away_for_a_moment_costs_a_moment(
    scheduling: Scheduling, settings: Settings, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is with the worker: nobody sends it again for a lease."""
    worker = Worker(settings, JOBS)
    start, errors = worker._queue.start, [OSError("the session has ended")]

    async def start_later(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return await start(*arguments)

    monkeypatch.setattr(worker._queue, "start", start_later)
    async with scheduling() as here:
        id = await ask(here, brief)
        try:
            await worker.start()
            assert await outcomes(here.database, id) == ["succeeded"]
        finally:
            await worker.stop()
    assert not errors


@BRIEF_LEASE
async def test_what_no_worker_takes_within_the_catch_up_window_is_missed(
    scheduling: Scheduling,
) -> None:
    async with scheduling() as here:
        id = await ask(here, brief)

        async def queued() -> bool:
            return any(row.sent for row in await runs(here.database, id))

        await until(queued)
        long_ago = int((time.time() - 10 * 86_400) * 1e6)
        async with here.database.writing() as connection:
            await connection.execute(update(job_runs).values(fire_time=long_ago, lease_until=1))
        assert await outcomes(here.database, id) == ["missed"]


async def test_a_job_that_still_waits_or_runs_lets_the_next_fire_pass(
    scheduling: Scheduling,
) -> None:
    """However long it waits: what nobody has begun is no corpse."""
    async with scheduling(replace(brief, schedule=interval(seconds=0.2))) as here:
        assert set(await outcomes(here.database, "brief", 8)) == {"skipped"}
        assert len([row for row in await runs(here.database, "brief") if row.active_key]) == 1


async def test_a_replica_that_died_with_what_it_had_queued_costs_nothing(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    """Another one sends it again."""
    job = replace(brief, schedule=SOON)
    async with scheduling(job) as gone:
        await until(lambda: runs(gone.database, "brief"))
    async with scheduling(job) as here:
        row = (await runs(here.database, "brief"))[0]
        assert row.outcome is None
        assert row.sent
        async with working(settings):
            await until(lambda: asyncio.sleep(0.02, lines(notes)))


async def test_only_one_of_several_replicas_sends_again(
    scheduling: Scheduling,
) -> None:
    async with scheduling() as here:
        id = await ask(here, brief)
        await until(lambda: runs(here.database, id))
        async with here.database.writing() as connection:
            await connection.execute(update(job_runs).values(lease_until=1, sent=1))
        queue = Queue(here.ledger)
        (row,) = await queue.overdue()
        message = {"key": id, "job": "brief", "kwargs": {}, "fire_time": row.fire_time}
        sent = await asyncio.gather(*(queue.send_again(row, message) for _ in range(4)))
        (row,) = await runs(here.database, id)
        assert row.sent == 2
        assert len([one for one in sent if one]) <= 1  # its own replica may have been faster


async def test_what_a_worker_does_not_know_is_refused_when_it_is_added(
    scheduling: Scheduling,
) -> None:
    async with scheduling() as here:
        with pytest.raises(TypeError, match=r"declare it with @job\(\) in app/jobs/"):
            await ask(here, lambda: 1)
        with pytest.raises(TypeError, match="must be JSON values"):
            await ask(here, brief, word=object())


async def test_a_worker_starts_without_its_database_and_says_so(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    gone = make_settings(database_url=servers.unreachable(tmp_path))
    async with working(gone) as worker:
        assert worker.starting
        assert "the database does not answer" in worker.starting
