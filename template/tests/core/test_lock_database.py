"""Locks in the database: what only they can show."""

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import update

from app.core import wiring
from app.core.database import Database
from app.core.scheduling import Job, Run, lock, named_lock
from app.core.scheduling.answers import Fire, Won
from app.core.scheduling.execution import Execution
from app.core.schema import job_locks, job_runs
from app.settings import Settings
from tests.core.fixtures import BRIEF_LEASE, Scheduling
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


async def test_a_silent_holder_loses_a_named_lock(database: Database) -> None:
    async with lock("import", lease=0.3) as held:

        async def seized() -> int | None:
            async with database.writing() as connection:  # as if its lease had gone by
                await connection.execute(update(job_locks).values(lease_until=0))
            return named_lock.current().acquire("import", 30)  # None: it has been renewed since

        assert await until(seized) > held.fence
        await until(lambda: asyncio.sleep(0, held.lost))


@BRIEF_LEASE
async def test_a_replica_that_lost_its_lease_stops_its_run(
    scheduling: Scheduling, declare: Callable[..., Job], settings: Settings
) -> None:
    ended: list[str] = []

    async def wait(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    job = declare(wait)
    brief = settings.model_copy(update={"shutdown_grace_seconds": 0.05})
    async with scheduling(settings=brief) as service:
        await service.scheduler.add_job_async(job, jobstore="memory", executor="asyncio")

        async def active() -> list[Execution]:
            return list(service.runner._running.values())

        (held,) = await until(active)
        other = type(service.runner.ledger)(service.database, "b", 30, 3600)
        await until(lambda: asyncio.sleep(0, held._body is not None))
        await other.hand_over(held.fence, [])  # as if it had been taken over
        await until(lambda: asyncio.sleep(0, ended == ["cancelled"]))
        assert [row.outcome for row in await runs(service.database)] == [None]


async def test_fences_grow_on_where_another_lock_backend_gave_greater_ones(
    database: Database, settings: Settings
) -> None:
    """As after `copier update --data lock_backend=database`: Redis's fences are microseconds."""
    ledger = wiring.lock.ledger(settings, database, "a")
    first, second = (Fire("job", time.time_ns() // 1000 + n, None) for n in range(2))
    await ledger.claim([first])
    theirs = time.time_ns() // 1000
    async with database.writing() as connection:
        await connection.execute(update(job_runs).values(fence=theirs))
    async with wiring.lock.claiming(ledger):
        (won,) = await ledger.claim([second])
    assert isinstance(won, Won)
    assert won.fence > theirs
