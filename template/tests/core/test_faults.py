"""What goes wrong costs no more than it must: one run, one try, never the service."""

import asyncio
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import alembic.config
import pytest
from sqlalchemy import update

from app.core import migrate, tasks
from app.core.executors import threadpool
from app.core.scheduling import Run, audit, interval, lock, named_lock, runner
from app.core.scheduling.answers import Fire, Won
from app.core.scheduling.batch import storable
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.entry import Entry
from app.core.scheduling.ledger import Ledger
from app.core.schema import job_runs
from app.core.service import Service
from app.core.signals import on_stop
from app.core.tasks import end, end_between
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import BRIEF_LEASE, Declare, Scheduling
from tests.core.waiting import far_off, outcomes, runs, until

pytestmark = pytest.mark.anyio
OFTEN = interval(seconds=0.1)


@pytest.fixture
def brief(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(shutdown_grace_seconds=0.05)


async def running(service: Service, job: str) -> None:
    """Wait until a run of the job has begun."""

    async def begun() -> bool:
        return any(row.outcome is None for row in await runs(service.database, job))

    await until(begun)


async def test_the_dead_are_looked_for_within_each_second(
    scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[float]()
    async with scheduling() as service:
        recovery = service.scheduler._recovery
        take_over = recovery.take_over

        async def look() -> None:
            looks.append(time.monotonic())
            await take_over()

        monkeypatch.setattr(recovery, "take_over", look)
        await until(lambda: asyncio.sleep(0, len(looks) > 5))
    # A busy machine is late at times, but not each time.
    assert min(after - before for before, after in pairwise(looks)) < 1


@pytest.mark.parametrize("stops", [False, True], ids=["time-out", "stop"])
async def test_a_coroutine_that_blocks_its_loop_is_left_behind(
    scheduling: Scheduling,
    declare: Declare,
    brief: Settings,
    monkeypatch: pytest.MonkeyPatch,
    stops: bool,
) -> None:
    monkeypatch.setattr(threadpool, "_PATIENCE", 0.05)

    async def block() -> None:
        time.sleep(0.2)  # noqa: ASYNC251

    job = declare(block, OFTEN, executor="threadpool", timeout=None if stops else 0.05)
    async with scheduling(job, settings=brief) as service:
        await running(service, "block")
        if not stops:

            async def timed_out() -> bool:
                found = await runs(service.database, "block")
                return "timed_out" in {row.outcome for row in found}

            await until(timed_out)


async def test_a_run_that_waits_for_its_next_attempt_is_given_back_at_once(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    async def fail() -> None:
        raise OSError("no")

    patient = settings.model_copy(update={"shutdown_grace_seconds": 60})
    job = declare(fail, OFTEN, executor="asyncio", retries=3, backoff=600)
    started = time.monotonic()
    async with scheduling(job, settings=patient) as service:

        async def failed_once() -> bool:
            return any(row.attempts for row in await runs(service.database, "fail"))

        await until(failed_once)
    assert time.monotonic() - started < 30
    async with scheduling(settings=patient) as service:
        row = next(row for row in await runs(service.database, "fail") if row.attempts)
        ended = [past["outcome"] for past in json.loads(row.attempts)]
        assert (row.outcome, ended) == (None, ["failed", "interrupted"])


async def test_a_second_signal_ends_the_wait(scheduling: Scheduling, declare: Declare) -> None:
    async def wait() -> None:
        await asyncio.sleep(600)

    job = declare(wait, OFTEN, executor="asyncio")
    started = time.monotonic()
    async with scheduling(job) as service:
        await running(service, "wait")
        service.runner.hurry()
    assert time.monotonic() - started < 30


def test_the_first_signal_is_told_from_the_second() -> None:
    """uvicorn waits for open connections, however long, until it hears of a second SIGINT."""
    called: list[str] = []
    heard: list[int] = []

    async def main() -> None:
        with on_stop(lambda: called.append("first"), lambda: called.append("second")):
            for _ in range(3):
                before = len(called)
                os.kill(os.getpid(), signal.SIGTERM)
                while len(called) == before:
                    await asyncio.sleep(0)

    both = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: heard.append(number)) for number in both]
    try:
        asyncio.run(main())
    finally:
        for number, handler in zip(both, before, strict=True):
            signal.signal(number, handler)
    assert called == ["first", "second", "second"]
    assert heard == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]


@BRIEF_LEASE
async def test_a_thread_that_outlives_the_drain_is_no_death(
    scheduling: Scheduling, declare: Declare, settings: Settings, tmp_path: Path
) -> None:
    """Three deploys in the middle of it do not make it `lost`."""
    go = threading.Event()
    file = tmp_path / "begun"

    def long() -> None:
        with file.open("a") as notes:
            notes.write("x")
        go.wait(30)

    job = declare(long, interval(days=20_000), executor="threadpool", on_store_loss="continue")
    impatient = settings.model_copy(update={"shutdown_grace_seconds": 0.05})
    at = 0
    try:
        for attempt in (1, 2, 3, 4):
            async with scheduling(job, settings=impatient) as service:
                if attempt == 1:
                    entry = service.scheduler.find("long")
                    assert entry
                    at = time.time_ns() // 1000
                    service.runner.submit(entry, at, lambda _: None, late=True)
                begun = functools.partial(has_begun, file, attempt)
                await until(begun)
            (row,) = await runs(service.database, "long")
            past = json.loads(row.attempts)[-1]
            assert row.outcome is None
            assert (past["outcome"], past["attempt"]) == ("interrupted", attempt)
            assert row.lease_until > at  # it runs on, so nobody else may begin yet
    finally:
        go.set()


async def has_begun(file: Path, times: int) -> bool:
    return file.exists() and len(file.read_text()) >= times


async def test_fires_that_get_no_slot_are_left_to_the_cursor(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    """A day of them would be asked one by one, and what is due now would wait behind."""

    async def often() -> None: ...

    job = declare(often, interval(seconds=0.1), executor="asyncio", overlap="allow")
    brief = settings.model_copy(update={"lease_seconds": 0.1})
    async with scheduling(job, settings=brief) as service:
        service.runner.executors["asyncio"].slots = 0
        await asyncio.sleep(1.2)  # twelve fires; those of two leases wait
        assert len(service.runner._waiting) < 9
        service.runner.executors["asyncio"].slots = 10
        since = time.time_ns() // 1000

        async def runs_again() -> bool:
            found = await runs(service.database, "often")
            return any(row.outcome == "succeeded" and row.fire_time > since for row in found)

        await until(runs_again)


async def test_a_cursor_that_no_version_moves_any_more_is_taken_over(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    """An old replica that started again in a rolling deploy, and is gone now, has left it."""

    async def often() -> None: ...

    brief = settings.model_copy(update={"lease_seconds": 0.2})
    job = declare(often, interval(seconds=0.1), executor="asyncio")
    async with scheduling(job, settings=brief) as service:
        cursors = Cursors(service.database, "old")
        mine = (await cursors.all())["often"].fingerprint

        async def is_mine() -> bool:
            return bool((await cursors.all())["often"].fingerprint == mine)

        async with service.scheduler._recovery._one_account:  # which takes it over
            await cursors.register({"often": interval(seconds=0.3).fingerprint})
            assert not await is_mine()
        await until(is_mine)


async def test_claims_wait_for_the_database_and_lose_nothing(
    scheduling: Scheduling, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_RETRY", 0.01)
    failures = 0
    whole = Ledger.claim

    async def claim(self: Ledger, fires: Any) -> Any:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise OSError("the database is away")
        return await whole(self, fires)

    monkeypatch.setattr(Ledger, "claim", claim)
    async with scheduling() as service:
        job = await service.scheduler.add_job_async(
            declare(sample_jobs.speak.function, id="speak"), jobstore="memory", executor="asyncio"
        )
        assert await outcomes(service.database, job.id) == ["succeeded"]
    assert failures == 3


async def test_the_record_of_a_run_waits_for_the_database(
    scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []
    whole = Ledger.finish

    async def finish(self: Ledger, *arguments: Any, **more: Any) -> Any:
        if not failures:
            failures.append(1)
            raise OSError("the database is away")
        return await whole(self, *arguments, **more)

    monkeypatch.setattr(Ledger, "finish", finish)
    async with scheduling() as service:
        job = await service.scheduler.add_job_async(
            sample_jobs.speak, jobstore="memory", executor="asyncio"
        )
        assert await outcomes(service.database, job.id) == ["succeeded"]


async def test_an_executor_that_breaks_fails_the_run(
    scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(call: object) -> None:
        raise OSError("no more processes")

    async with scheduling() as service:
        monkeypatch.setattr(service.runner.executors["asyncio"], "execute", broken)
        job = await service.scheduler.add_job_async(
            sample_jobs.speak, jobstore="memory", executor="asyncio"
        )
        assert await outcomes(service.database, job.id) == ["failed"]
        (row,) = await runs(service.database, job.id)
        assert "no more processes" in row.error


async def test_a_job_that_cannot_be_submitted_does_not_stop_the_pass(
    scheduling: Scheduling, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def good() -> None:
        pass

    bad = declare(good, OFTEN, id="bad", executor="asyncio")
    async with scheduling(bad, declare(good, OFTEN, executor="asyncio")) as service:
        whole = service.runner.submit

        def submit(entry: Entry, *arguments: Any, **more: Any) -> None:
            if entry.key == "bad":
                raise LookupError("no such thing")
            whole(entry, *arguments, **more)

        monkeypatch.setattr(service.runner, "submit", submit)
        seen = len(await runs(service.database, "good"))
        await outcomes(service.database, "good", seen + 2)


async def test_a_fire_is_not_run_before_its_time(scheduling: Scheduling) -> None:
    async with scheduling() as service:
        due = int((time.time() + 0.3) * 1e6)
        entry = Entry("early", sample_jobs.speak, (), {}, "asyncio", "memory")
        service.runner.submit(entry, due, lambda _: None)
        assert service.runner.knows("early", due)
        assert await outcomes(service.database, "early") == ["succeeded"]
        (row,) = await runs(service.database, "early")
        assert row.claimed_at >= due - 260_000


async def left_behind(
    service: Service, job: str, attempts: list[dict[str, Any]], age: float = 0, silent: float = 0
) -> None:
    """As a process leaves a run that died with it, so many seconds ago."""
    ledger = Ledger(service.database, "dead", lease=600, window=3600)
    (won,) = await ledger.claim([Fire(job, int((time.time() - age) * 1e6), None)])
    assert isinstance(won, Won)
    assert await ledger.retry(won.fence, len(attempts) + 1, attempts)
    async with service.database.writing() as connection:
        await connection.execute(
            update(job_runs)
            .where(job_runs.c.fence == won.fence)
            .values(lease_until=1, claimed_at=int((time.time() - silent) * 1e6))
        )


async def test_a_run_that_kills_its_process_is_given_up_after_the_third_time(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    died = [{"attempt": n, "outcome": "lost", "error": None} for n in (1, 2)]
    given_back = [{"attempt": n, "outcome": "interrupted", "error": None} for n in (1, 2, 3, 4)]
    jobs = [
        declare(
            sample_jobs.speak.function,
            far_off(),
            id=id,
            on_crash=on_crash,
            executor="asyncio",
        )
        for id, on_crash in (("killer", "retry"), ("fragile", "lost"), ("deployed", "retry"))
    ]
    async with scheduling(settings=settings.model_copy(update={"scheduler_enabled": False})) as it:
        for job, attempts in (("killer", died), ("fragile", []), ("deployed", given_back)):
            await left_behind(it, job, attempts)
    async with scheduling(*jobs) as service:
        assert await outcomes(service.database, "killer") == ["lost"]
        assert await outcomes(service.database, "fragile") == ["lost"]
        assert await outcomes(service.database, "deployed") == ["succeeded"]


async def test_a_run_that_no_version_knows_is_lost_in_the_end(
    scheduling: Scheduling, settings: Settings
) -> None:
    short = settings.model_copy(update={"catch_up_seconds": 0})
    async with scheduling(settings=short) as service:
        # It may have begun long after it was due: what counts is for how long nobody was heard.
        await left_behind(service, "known-elsewhere", [], age=600)
        await left_behind(service, "renamed", [], age=600, silent=61)
        assert await outcomes(service.database, "renamed") == ["lost"]
        (row,) = await runs(service.database, "known-elsewhere")
        assert row.outcome is None


async def test_what_another_version_wrote_keeps_nothing_from_its_turn(
    scheduling: Scheduling, declare: Declare
) -> None:
    """A trigger and a record of attempts that this one cannot read."""
    functions = dict.fromkeys(("newer", "older"), sample_jobs.speak.function)
    often, seldom = (
        [declare(f, schedule, id=f"{id}-{name}", executor="asyncio") for id, f in functions.items()]
        for name, schedule in (("often", OFTEN), ("seldom", far_off()))
    )
    async with scheduling(*often, *seldom) as service:
        database, cursors = service.database, Cursors(service.database, "")
        await outcomes(database, "newer-often")
        await cursors.reschedule("newer-often", '{"type": "lunar"}')
        await until(lambda: asyncio.sleep(0, service.scheduler.orphans))
        assert service.scheduler.orphans == {"newer-often"}
        await left_behind(service, "newer-seldom", [{"tries": 1}])
        await left_behind(service, "older-seldom", [])
        assert await outcomes(database, "older-seldom") == ["succeeded"]
        waiting = service.runner._waiting  # what was asked for before may yet be won
        await until(lambda: asyncio.sleep(0, all(key != "newer-often" for key, _ in waiting)))
        there, seen = len(await runs(database, "newer-often")), await runs(database, "older-often")
        await outcomes(database, "older-often", len(seen) + 2)
        assert len(await runs(database, "newer-often")) == there
        (left,) = await runs(database, "newer-seldom")
        assert (left.outcome, json.loads(left.attempts)) == (None, [{"tries": 1}])
        assert "newer-often" not in await audit(database)
        await cursors.reschedule("newer-often", json.dumps(OFTEN.to_json()))
        await outcomes(database, "newer-often", there + 1)
        assert not service.scheduler.orphans


async def test_a_claim_that_was_cut_off_is_found_again(
    scheduling: Scheduling, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.scheduling.ledger._UNKNOWN_AFTER", 20_000)
    job = declare(sample_jobs.speak.function, far_off(), id="cut", executor="asyncio")
    async with scheduling(job) as service:
        at = int(time.time() * 1e6)
        assert await service.runner.ledger.claim([Fire("cut", at, "cut")])
        assert await outcomes(service.database, "cut") == ["succeeded"]


async def test_a_lock_whose_renewal_fails_is_tried_again(
    database: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, calls = named_lock.current(), []
    acquire, whole = locks.acquire, locks.renew

    def renew(name: str, fence: int, lease: float) -> bool:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("the database is away")
        return whole(name, fence, 30)

    monkeypatch.setattr(locks, "acquire", lambda name, lease: acquire(name, 30))
    monkeypatch.setattr(locks, "renew", renew)
    async with lock("import", lease=0.3) as held:
        await until(lambda: asyncio.sleep(0, len(calls) >= 2))
        assert not held.lost


async def test_a_task_is_ended_between_its_calls_unless_one_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, calls = asyncio.Lock(), list[str]()

    async def call(seconds: float) -> None:
        while True:
            async with lock:
                calls.append("begun")
                await asyncio.sleep(seconds)
                calls.append("done")
            await asyncio.sleep(60)

    for seconds, patience, made in ((0.05, 20, ["begun", "done"]), (60, 0.1, ["begun"])):
        monkeypatch.setattr(tasks, "_PATIENCE", patience)
        calls.clear()
        task = asyncio.create_task(call(seconds))
        await asyncio.sleep(0)
        await end_between(lock, task)
        assert (calls, task.cancelled()) == (made, True)


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "_PATIENCE", 0.1)
    swallowed: list[int] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(1)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task, None)
    assert task.cancelled()
    assert swallowed


def test_nothing_is_open_before_the_start() -> None:
    with pytest.raises(RuntimeError, match="needs a started service"):
        lock("import")
    with pytest.raises(RuntimeError, match="no database is open"):
        Run(settings=Settings()).transaction()


def test_a_text_is_made_fit_for_any_database() -> None:
    assert storable("a\0b\ud800") == "a\ufffdb?"
    assert storable(None) is None


def test_the_command_migrates_and_checks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    for arguments in ([], ["check"]):
        monkeypatch.setattr(sys, "argv", ["migrate", *arguments])
        migrate.main()
    monkeypatch.setenv("LEASE_SECONDS", "never")
    with pytest.raises(SystemExit, match="LEASE_SECONDS"):
        migrate.main()


def test_alembics_own_command_works_on_your_history(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(migrate.__file__).parents[2])
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    alembic.config.main(["current"], "alembic")
