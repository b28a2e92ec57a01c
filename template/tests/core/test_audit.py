"""Every fire ends in one outcome, and a query tells whether it is so."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, update

from app.core.database import Database
from app.core.scheduling import Audit, audit, interval
from app.core.scheduling.cursors import Cursors
from app.core.schema import job_runs, job_schedules
from app.settings import Settings
from tests.core.fixtures import Declare, Scheduling
from tests.core.waiting import outcomes, until, without_slots

pytestmark = pytest.mark.anyio
HOUR = 3_600_000_000


async def nothing() -> None:
    """The body of jobs whose record is what matters."""


async def hourly(database: Database, hours: int) -> int:
    """A job whose cursor began so many hours ago; its newest fire, a while ago."""
    now = int(datetime.now(UTC).timestamp() * 1e6)
    newest = now - 60_000_000
    trigger = interval(hours=1, offset=newest % HOUR / 1e6)
    await Cursors(database, "a").register({"job": trigger.fingerprint})
    began = {"since": newest - hours * HOUR + 1, "accounted_until": newest}
    async with database.writing() as connection:
        await connection.execute(update(job_schedules).values(**began))
    return newest


def row(time: int, **more: object) -> dict[str, object]:
    whole = {"job": "job", "fire_time": time, "replica": "a", "attempt": 1, "outcome": "succeeded"}
    return {**whole, "finished_at": time, **more}


async def test_each_fire_is_counted_and_what_is_not_recorded_is_a_gap(database: Database) -> None:
    newest = await hourly(database, 10)
    assert await audit(database) == {"job": Audit(expected=10, recorded=0, gaps=10)}
    assert not await Cursors(database, "a").resume("job")  # it is not paused, and owes them still
    assert await audit(database) == {"job": Audit(expected=10, recorded=0, gaps=10)}
    async with database.writing() as connection:
        for back in (0, 1, 6):
            await connection.execute(insert(job_runs).values(row(newest - back * HOUR)))
        missed = row(newest - 2 * HOUR, first_fire_time=newest - 5 * HOUR, fires=4)
        await connection.execute(insert(job_runs).values(missed))
        within = row(newest - 3 * HOUR)  # it was claimed in the very moment
        await connection.execute(insert(job_runs).values(within))
    assert await audit(database) == {"job": Audit(expected=10, recorded=7, gaps=3)}
    async with database.writing() as connection:
        more = row(newest - 7 * HOUR, first_fire_time=newest - 20 * HOUR, fires=14)
        await connection.execute(insert(job_runs).values(more))
        await connection.execute(insert(job_runs).values(row(newest - 17)))
    assert await audit(database) == {"job": Audit(expected=10, recorded=11, gaps=0)}


async def test_what_retention_may_have_deleted_is_not_expected(database: Database) -> None:
    await hourly(database, 24 * 100)
    days = database.settings.retention_days
    assert (await audit(database))["job"].expected == pytest.approx(days * 24, abs=1)


async def test_a_service_leaves_no_gaps_whatever_is_done_to_its_jobs(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    job = declare(nothing, interval(seconds=0.1), executor="asyncio")
    brief = settings.model_copy(update={"lease_seconds": 0.5})
    async with scheduling(job, settings=brief) as service:
        database, scheduler = service.database, service.scheduler

        async def complete() -> bool:
            found = (await audit(database))["nothing"]
            # A fire of the schedule before may be there besides.
            return found.recorded >= found.expected > 0 == found.gaps

        await outcomes(database, "nothing", 3)
        await until(complete)
        async with without_slots(service):  # what is due by then will not run any more
            await scheduler.pause_job_async("nothing")
        await until(complete)
        await scheduler.resume_job_async("nothing")
        await until(complete)
        async with scheduler._recovery._one_account:  # which makes up for it
            async with database.writing() as connection:
                await connection.execute(delete(job_runs))
            assert not await complete()
        await scheduler.reschedule_job_async("nothing", trigger="interval", seconds=0.2)
        await until(complete)


async def test_a_job_that_the_code_declares_no_more_is_an_orphan(
    scheduling: Scheduling, declare: Declare
) -> None:
    job = declare(nothing, interval(seconds=0.1), executor="asyncio")
    async with scheduling(job) as service:
        await outcomes(service.database, "nothing")
        assert not service.scheduler.orphans
    async with scheduling() as service:
        await until(lambda: asyncio.sleep(0, service.scheduler.orphans))
        assert service.scheduler.orphans == {"nothing"}
        assert "nothing" in await Cursors(service.database, "").all(), "another version's may be"
        assert await audit(service.database, service.scheduler.orphans) == {}


async def test_a_pause_that_is_changed_begins_when_it_began(database: Database) -> None:
    cursors, hour = Cursors(database, "x"), interval(hours=1)
    await cursors.register({"job": hour.fingerprint})
    assert await cursors.pause("job", by="me", reason="", until=None)
    first = (await cursors.all())["job"]
    await cursors.pause("job", by="you", reason="holiday", until=first.now + HOUR)
    second = (await cursors.all())["job"]
    assert (second.paused_by, second.paused_until) == ("you", first.now + HOUR)
    assert second.paused_at == first.paused_at


async def test_the_end_of_a_pause_ends_no_other_and_is_never_before_its_begin(
    database: Database,
) -> None:
    cursors, hour = Cursors(database, "x"), interval(hours=1)
    await cursors.register({"job": hour.fingerprint})
    await cursors.pause("job", by="", reason="", until=1)
    ended = (await cursors.all())["job"]
    assert not ended.paused
    await cursors.pause("job", by="", reason="", until=None)
    assert not await cursors.resume("job", ended)
    assert (await cursors.all())["job"].paused
    await cursors.pause("job", by="", reason="", until=1)
    ended = (await cursors.all())["job"]
    assert await cursors.resume("job", ended)
    resumed = (await cursors.all())["job"]
    assert resumed.paused_at is None
    assert resumed.accounted_until == resumed.since == ended.paused_at
