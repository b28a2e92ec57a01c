"""The scheduler: each fire once, over any number of processes, whatever APScheduler is asked."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import update

from app.core.database import Database
from app.core.executors import threadpool
from app.core.scheduling import Job, Run, cron, interval
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.triggers import Interval, moment
from app.core.schema import job_schedules
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import BRIEF_LEASE, Scheduling
from tests.core.waiting import far_off, no_gaps, outcomes, runs, succeeded, until

pytestmark = pytest.mark.anyio
Declare = Callable[..., Job]
THEIRS: Callable[..., object] = IntervalTrigger
STOCK: Callable[..., Any] = AsyncIOScheduler


async def nothing() -> None:
    """The body of jobs whose record is what matters."""


@BRIEF_LEASE
async def test_a_declared_job_runs_at_each_of_its_instants(
    scheduling: Scheduling, declare: Declare
) -> None:
    job = declare(nothing, interval(seconds=0.2), executor="asyncio", overlap="allow")
    async with scheduling(job) as service:
        assert "succeeded" in await outcomes(service.database, "nothing", 3)
        await until(lambda: no_gaps(service.database, "nothing", 200_000))
        found = await runs(service.database, "nothing")
    assert all(row.fire_time % 200_000 == 0 for row in found)
    assert {row.outcome for row in found} <= {"succeeded", "missed", None}


async def test_listeners_see_a_failure_as_a_failure(scheduling: Scheduling, tmp_path: Path) -> None:
    events: list[Any] = []
    async with scheduling() as service:
        service.scheduler.add_listener(events.append, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
        for job, kwargs in (
            (sample_jobs.fail, {}),
            (sample_jobs.note, {"file": str(tmp_path / "note")}),
        ):
            added = service.scheduler.add_job(
                job, jobstore="memory", executor="threadpool", kwargs=kwargs
            )
            await outcomes(service.database, added.id)
        await until(lambda: asyncio.sleep(0, len(events) == 2))
    done, failed = sorted(events, key=lambda event: event.code)
    assert failed.code == EVENT_JOB_ERROR
    assert "this and that" in str(failed.exception)
    assert done.code == EVENT_JOB_EXECUTED


async def test_what_replicas_would_not_do_alike_is_refused_by_name(scheduling: Scheduling) -> None:
    async with scheduling() as service:

        def refused(message: str, **options: Any) -> None:
            with pytest.raises(TypeError, match=message):
                service.scheduler.add_job(sample_jobs.note, jobstore="memory", **options)

        refused("replicas would not compute its fire times", trigger=THEIRS(seconds=5))
        refused("jitter: not an argument", trigger="interval", seconds=5, jitter=3)
        refused("start_date", trigger="interval", minutes=1, start_date="2026-01-01")
        refused("week: not an argument", trigger="cron", hour=2, week=3)
        refused("needs a field", trigger="cron")
        refused("crontab from Sunday", trigger="cron", day_of_week="0")
        refused("says what you mean", trigger="cron", day=1, day_of_week="mon")
        refused(r"max_instances has no effect here: say @job\(overlap", max_instances=3)
        refused("CATCH_UP_SECONDS", misfire_grace_time=60)


async def test_apschedulers_cron_arguments_mean_the_same(scheduling: Scheduling) -> None:
    async with scheduling() as service:

        def fires(**arguments: Any) -> str:
            job = service.scheduler.add_job(
                nothing, "cron", jobstore="memory", executor="asyncio", **arguments
            )
            return str(job.trigger)

        assert fires(day_of_week="mon-fri", hour=10) == str(cron("0 10 * * mon-fri", "UTC"))
        assert fires(minute="*/5") == str(cron("*/5 * * * *", "UTC"))
        assert fires(month=6) == str(cron("0 0 1 6 *", "UTC"))
        assert fires(second=30) == str(cron("30 * * * * *", "UTC"))
        assert fires(hour=2, timezone="Asia/Tokyo") == str(cron("0 2 * * *", "Asia/Tokyo"))


async def test_a_service_that_cannot_be_pickled_is_refused_when_it_is_added(
    scheduling: Scheduling,
) -> None:
    async with scheduling() as service:
        with pytest.raises(TypeError, match="cannot be sent to a worker process"):
            service.scheduler.add_job(lambda: 1, jobstore="memory", executor="processpool")


async def test_a_job_in_memory_is_operated_as_in_apscheduler(scheduling: Scheduling) -> None:
    async with scheduling() as service:
        scheduler = service.scheduler
        scheduler.add_job(
            nothing, "interval", minutes=5, id="mine", jobstore="memory", executor="asyncio"
        )
        assert scheduler.pause_job("mine").next_run_time is None
        assert scheduler.resume_job("mine").next_run_time is not None
        rescheduled = scheduler.reschedule_job("mine", trigger="interval", hours=1)
        assert str(rescheduled.trigger) == str(interval(hours=1))
        assert scheduler.modify_job("mine", name="other").name == "other"
        assert [job.id async for job in scheduler.get_jobs_async()] == ["mine"]
        scheduler.remove_job("mine")
        with pytest.raises(JobLookupError):
            await scheduler.remove_job_async("mine")


async def test_a_declared_job_is_paused_rescheduled_and_not_removed(
    scheduling: Scheduling, declare: Declare
) -> None:
    job = declare(nothing, interval(hours=5), executor="asyncio")
    async with scheduling(job) as service:
        scheduler = service.scheduler
        with pytest.raises(RuntimeError, match=r"await scheduler\.pause_job_async"):
            scheduler.pause_job("nothing")
        paused = await asyncio.to_thread(scheduler.pause_job, "nothing", by="me", reason="holiday")
        assert paused.next_run_time is None
        (row,) = (await Cursors(service.database, "x").all()).values()
        assert (row.paused_by, row.pause_reason) == ("me", "holiday")
        assert (await scheduler.resume_job_async("nothing")).next_run_time is not None
        await scheduler.reschedule_job_async("nothing", trigger="interval", seconds=0.1)
        await succeeded(service.database, "nothing")
        with pytest.raises(TypeError, match="is declared in app/jobs/"):
            await scheduler.remove_job_async("nothing")
        with pytest.raises(TypeError, match="cannot be modified"):
            await scheduler.modify_job_async("nothing", kwargs={})
        with pytest.raises(ValueError, match="is the id of a declared job"):
            scheduler.add_job(job, id="nothing", jobstore="memory")


async def test_a_pause_that_ends_by_itself_owes_nothing_for_its_time(
    scheduling: Scheduling, declare: Declare
) -> None:
    job = declare(nothing, interval(seconds=0.1), executor="asyncio")
    async with scheduling(job) as service:
        end = datetime.now(UTC) + timedelta(seconds=0.2)
        await service.scheduler.pause_job_async("nothing", until=end)
        paused = datetime.now(UTC)
        await outcomes(service.database, "nothing", len(await runs(service.database)) + 2)
        rows = await runs(service.database, "nothing")
        assert {row.outcome for row in rows if row.outcome} <= {"succeeded", "skipped"}
        assert not [row for row in rows if paused < moment(row.fire_time) < end]


async def test_a_first_deploy_and_a_changed_schedule_owe_nothing(
    scheduling: Scheduling, declare: Declare
) -> None:
    for step in (3600, 7200):
        job = declare(nothing, far_off(step), executor="asyncio")
        async with scheduling(job) as service:
            assert await runs(service.database, "nothing") == []


async def test_what_was_missed_while_everything_was_down_is_caught_up_or_recorded(
    scheduling: Scheduling, settings: Settings, declare: Declare
) -> None:
    hourly = far_off()

    def jobs() -> list[Job]:
        return [
            declare(nothing, hourly, executor="asyncio"),
            declare(nothing, hourly, id="never", catch_up="none"),
        ]

    async with scheduling(*jobs()) as service:
        await rewind(service.database, hours=5)
    async with scheduling(*jobs()) as service:
        assert sorted(await outcomes(service.database, "nothing", 2)) == ["missed", "succeeded"]
        await outcomes(service.database, "never", 1)
        missed, ran = await runs(service.database, "nothing")
        assert (missed.fires, missed.outcome) == (4, "missed")
        assert ran.fire_time - missed.fire_time == 3_600_000_000
        assert missed.fire_time - missed.first_fire_time == 3 * 3_600_000_000
        (none,) = await runs(service.database, "never")
        assert (none.fires, none.outcome) == (5, "missed")


async def rewind(database: Database, hours: float) -> None:
    """As if nothing had run for so long."""
    back = int(hours * 3_600_000_000)
    cursor = job_schedules.c.accounted_until
    async with database.writing() as connection:
        await connection.execute(update(job_schedules).values(accounted_until=cursor - back))


@pytest.mark.parametrize("point", ["get_due_jobs", "plug", "reset", "get_next_run_time"])
async def test_an_error_at_any_point_of_a_pass_is_followed_by_the_next(
    scheduling: Scheduling,
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    point: str,
) -> None:
    """The store, the submission, its update, the look ahead: logged, and told by readiness."""
    job = declare(nothing, interval(seconds=0.1), executor="asyncio")
    async with scheduling(job) as service:
        scheduler, stamps = service.scheduler, list[float | None]()
        owner: Any = scheduler if hasattr(scheduler, point) else scheduler._own
        whole = getattr(owner, point)

        def broken(*arguments: Any) -> Any:
            if len(stamps) == 4:
                return whole(*arguments)
            stamps.append(scheduler.last_pass)
            scheduler.wakeup()
            raise OSError("it is not to be")

        monkeypatch.setattr(owner, point, broken)
        scheduler.wakeup()
        await until(lambda: asyncio.sleep(0, len(stamps) == 4))
        assert len(set(stamps)) == 1
        seen = len(await runs(service.database, "nothing"))
        await outcomes(service.database, "nothing", seen + 2)
        assert scheduler.last_pass != stamps[0]
    assert caplog.text.count("OSError: it is not to be") == 4


@BRIEF_LEASE
async def test_a_job_that_cannot_be_submitted_delays_no_other_and_holds_no_loop(
    scheduling: Scheduling, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Interval):
        tried = 0

        def last(self, until: datetime) -> datetime | None:
            Broken.tried += 1
            raise OverflowError("no such day")

    broken = declare(nothing, Broken(timedelta(seconds=0.1)), id="broken", executor="asyncio")
    good = declare(nothing, interval(seconds=0.2), executor="asyncio", overlap="allow")
    async with scheduling(broken, good) as service:

        async def accounted() -> bool:
            row = (await Cursors(service.database, "").all())["nothing"]
            return bool(row.accounted_until > row.since)

        await until(accounted)
        await outcomes(service.database, "nothing", 3)
        assert Broken.tried
        began, passes = time.monotonic(), Broken.tried
        await outcomes(service.database, "nothing", 6)
        assert Broken.tried - passes < 50 * (time.monotonic() - began) + 50


async def test_a_clock_that_is_wrong_is_set_by_the_stores_and_one_that_may_be_right_is_not(
    scheduling: Scheduling,
) -> None:
    asked, answered = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    off: dict[timedelta, datetime] = {}
    async with scheduling() as service:
        scheduler = service.scheduler
        scheduler.clock = lambda: answered
        for seconds in (-60, 0, 0.5, 1, 60):
            scheduler.hear(asked, asked + timedelta(seconds=seconds))
            off[timedelta(seconds=seconds)] = scheduler.now()
    assert off.pop(timedelta(seconds=-60)) == answered - timedelta(seconds=60)
    assert off.pop(timedelta(seconds=60)) == asked + timedelta(seconds=60)
    assert set(off.values()) == {answered}


async def test_a_listener_that_fails_costs_no_run(
    scheduling: Scheduling, declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise SystemExit("a listener cannot end the service")

    async with scheduling(declare(nothing, interval(seconds=0.1), executor="asyncio")) as service:
        service.scheduler.add_listener(fail)
        seen = len(await runs(service.database, "nothing"))
        await outcomes(service.database, "nothing", seen + 2)
        assert service.scheduler.last_pass
    assert "a listener cannot end the service" in caplog.text


async def test_apscheduler_itself_still_dies_of_a_store_that_fails_once() -> None:
    """The day this fails, `PassingScheduler` need not arm its timer any more."""
    failures: list[OSError] = []

    class Store(MemoryJobStore):
        def update_job(self, job: object) -> None:
            failures.append(OSError("the store is gone"))
            raise failures[-1]

    stock, unheard, store = STOCK(), list[object](), cast("Callable[[], object]", Store)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    stock.add_jobstore(store())
    stock.add_job(nothing, "interval", seconds=0.05)
    stock.start()
    await until(lambda: asyncio.sleep(0, unheard))
    assert stock.running
    assert stock._timeout is None
    await asyncio.sleep(0.2)
    assert len(failures) == 1
    stock.shutdown(wait=False)
    await asyncio.sleep(0)


async def test_what_runs_at_the_end_is_given_its_time_then_given_back(
    make_settings: Callable[..., Settings],
    scheduling: Scheduling,
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began: set[str] = set()

    async def wait(run: Run, seconds: float) -> None:
        began.add(run.job_id)
        await asyncio.sleep(seconds)

    def block(run: Run, seconds: float) -> None:
        began.add(run.job_id)
        time.sleep(seconds)

    def job(id: str, body: Callable[..., object], seconds: float, **options: str) -> Job:
        return declare(body, interval(seconds=0.2), id=id, kwargs={"seconds": seconds}, **options)

    jobs = [
        job("short", wait, 0.05, executor="asyncio"),
        job("long", wait, 30, executor="asyncio"),
        job("fatal", wait, 30, executor="asyncio", on_crash="lost"),
        job("beside the loop", wait, 30, executor="threadpool"),
        job("thread", block, 30, executor="threadpool"),
    ]
    settings = make_settings(shutdown_grace_seconds=0.15)
    monkeypatch.setattr(threadpool, "_PATIENCE", 4)
    async with scheduling(*jobs, settings=settings):
        await until(lambda: asyncio.sleep(0, len(began) == len(jobs)))
    async with scheduling(settings=settings) as service:
        rows = {id: (await runs(service.database, id))[0] for id in began}
        assert rows["short"].outcome == "succeeded"
        assert rows["fatal"].outcome == "interrupted"
        for id in ("long", "beside the loop"):
            given_back = rows[id]
            assert (given_back.outcome, given_back.lease_until) == (None, 0)
            assert json.loads(given_back.attempts)[-1]["outcome"] == "interrupted"
        # It runs on, so its lease is kept: until it ends, nobody else may run it.
        assert (rows["thread"].outcome, rows["thread"].active_key) == (None, "thread")
