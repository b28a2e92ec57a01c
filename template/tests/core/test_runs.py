"""A run: its transaction, its attempts, its record."""

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text, update

from app.core import wiring
from app.core.database import Database, WroteTooLong
from app.core.scheduling import FenceLost, Job, Run, interval
from app.core.scheduling.answers import Fire, Won
from app.core.scheduling.ledger import Ledger
from app.core.schema import job_counters, job_runs
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.waiting import no_gaps, outcomes, runs, until

pytestmark = pytest.mark.anyio
Declare = Callable[..., Job]
ADD_ONE = update(job_counters).values(value=job_counters.c.value + 1)


async def counter(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(text("SELECT value FROM job_counters"))).scalar_one())


@pytest.fixture
async def fenced(database: Database, run: Run) -> Run:
    """A run that has a row in the ledger."""
    ledger = Ledger(database, "a", lease=30, window=3600)
    at = int(time.time() * 1e6)
    (won,) = await ledger.claim([Fire("job", at, "job")])
    assert isinstance(won, Won)
    run.fence = won.fence
    return run


async def test_work_and_completion_are_one_transaction(database: Database, fenced: Run) -> None:
    before = await counter(database)
    async with fenced.unit_of_work() as session:
        await session.execute(ADD_ONE)
    assert [row.outcome for row in await runs(database)] == ["succeeded"]
    assert await counter(database) == before + 1


async def test_the_same_without_a_loop(database: Database, fenced: Run) -> None:
    def work() -> None:
        with fenced.transaction() as session:
            session.execute(ADD_ONE)
        with fenced.unit_of_work() as session:
            session.execute(ADD_ONE)

    before = await counter(database)
    await asyncio.to_thread(work)
    assert [row.outcome for row in await runs(database)] == ["succeeded"]
    assert await counter(database) == before + 2


async def test_an_error_leaves_neither(database: Database, fenced: Run) -> None:
    before = await counter(database)

    async def work() -> None:
        async with fenced.unit_of_work() as session:
            await session.execute(ADD_ONE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert [row.outcome for row in await runs(database)] == [None]
    assert await counter(database) == before


async def test_a_zombie_changes_nothing(database: Database, fenced: Run) -> None:
    before = await counter(database)
    async with database.writing() as connection:
        await connection.execute(update(job_runs).values(fence=job_runs.c.fence + 1))
    for transaction in (fenced.transaction(), fenced.unit_of_work()):
        with pytest.raises(FenceLost, match="taken over"):
            async with transaction as session:
                await session.execute(ADD_ONE)
    assert await counter(database) == before


async def test_the_unit_of_work_opens_once(fenced: Run) -> None:
    async with fenced.transaction():
        pass
    async with fenced.unit_of_work():
        pass
    with pytest.raises(RuntimeError, match=r"opens once; .* run.transaction\(\)"):
        fenced.unit_of_work()


async def test_a_failed_fire_is_tried_again_within_itself(
    scheduling: Scheduling, declare: Declare
) -> None:
    attempts: list[tuple[int, str]] = []

    async def flaky(run: Run) -> None:
        attempts.append((run.attempt, run.idempotency_key))
        if run.attempt < 3:
            raise OSError("not yet")

    job = declare(flaky, retries=2, backoff=0.01)
    async with scheduling() as service:
        added = await service.scheduler.add_job_async(job, jobstore="memory", executor="asyncio")
        assert await outcomes(service.database, added.id) == ["succeeded"]
        (row,) = await runs(service.database, added.id)
        assert row.attempt == 3
        assert row.attempts.count('"outcome": "failed"') == 2
    assert [attempt for attempt, _ in attempts] == [1, 2, 3]
    assert len({key for _, key in attempts}) == 1


async def test_an_error_after_the_commit_is_noted_and_the_outcome_stays(
    scheduling: Scheduling, declare: Declare
) -> None:
    async def late(run: Run) -> None:
        async with run.unit_of_work():
            pass
        raise OSError("afterwards")

    job = declare(late, retries=3, backoff=0.01)
    async with scheduling() as service:
        added = await service.scheduler.add_job_async(job, jobstore="memory", executor="asyncio")
        assert await outcomes(service.database, added.id) == ["succeeded"]

        async def noted() -> bool:
            (row,) = await runs(service.database, added.id)
            return row.attempt == 1 and "afterwards" in (row.error or "")

        assert await until(noted)


async def test_a_long_transaction_delays_others_and_loses_none(
    settings: Settings, scheduling: Scheduling, declare: Declare
) -> None:
    """Held for longer than a lease: refused where it kept others from writing."""
    settings = settings.model_copy(update={"lease_seconds": 1})

    async def hog(run: Run) -> None:
        async with run.unit_of_work() as session:
            await session.execute(ADD_ONE)
            await asyncio.sleep(settings.lease_seconds * 1.1)

    async def tick(run: Run) -> None:
        async with run.unit_of_work():
            pass

    longest = wiring.database.DIALECT.longest_write(settings.lease_seconds)
    often = {"id": "ticking", "executor": "asyncio", "retries": 3, "backoff": 0.01}
    jobs = (
        declare(tick, interval(seconds=0.2), **often),
        declare(hog, on_store_loss="continue" if longest is None else "cancel"),
    )
    async with scheduling(*jobs, settings=settings) as service:
        await outcomes(service.database, "ticking")
        added = await service.scheduler.add_job_async(
            jobs[1], jobstore="memory", executor="asyncio"
        )
        (outcome,) = await outcomes(service.database, added.id)
        (row,) = await runs(service.database, added.id)
        assert outcome == ("succeeded" if longest is None else "failed")
        assert longest is None or WroteTooLong.__name__ in row.error
        assert row.attempt == 1
        fired = len(await runs(service.database, "ticking"))
        await outcomes(service.database, "ticking", count=fired + 2)

        await until(lambda: no_gaps(service.database, "ticking", 200_000))
        ticks = await runs(service.database, "ticking")
        assert {row.outcome for row in ticks if row.outcome} <= {"succeeded", "skipped", "missed"}
