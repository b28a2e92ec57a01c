"""The ledger forgets what is settled and old enough, and nothing else."""

import pytest
from sqlalchemy import select, update

from app.core import wiring
from app.core.database import Database
from app.core.scheduling.answers import Fire, Won
from app.core.scheduling.retention import Retention
from app.core.schema import job_runs
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio
DAY = 86_400_000_000


async def test_settled_runs_are_deleted_when_they_are_old_enough(
    database: Database, settings: Settings
) -> None:
    ledger = wiring.lock.ledger(settings, database, "a")
    async with database.reading() as connection:
        at = int((await connection.execute(select(database.dialect.now()))).scalar_one())
    fires = [Fire(name, at, name) for name in ("open", "detached", "old", "new")]
    fence = {}
    for fire, won in zip(fires, await ledger.claim(fires), strict=True):
        assert isinstance(won, Won)
        fence[fire.job] = won.fence
    await ledger.finish(fence["old"], "succeeded", attempt=1)
    await ledger.finish(fence["detached"], "timed_out", attempt=1, still_running=True)
    async with database.writing() as connection:
        await connection.execute(update(job_runs).values(finished_at=at - 2 * DAY))
    await ledger.finish(fence["new"], "succeeded", attempt=1)
    async with database.writing() as connection:
        new = job_runs.c.job == "new"
        await connection.execute(update(job_runs).where(new).values(finished_at=at))

    assert await Retention(database, 3 * 86_400).sweep() == 0
    assert await Retention(database, 86_400).sweep() == 1
    assert {row.job for row in await runs(database)} == {"open", "detached", "new"}


async def test_a_service_deletes_what_is_old_by_itself(
    scheduling: Scheduling, settings: Settings
) -> None:
    async with scheduling() as service:
        async with service.database.writing() as connection:
            row = {"job": "gone", "fire_time": 1, "replica": "a", "attempt": 1, "finished_at": 1}
            old = [{**row, "fire_time": n, "outcome": "succeeded"} for n in range(2_500)]
            await connection.execute(job_runs.insert(), old)

        async def deleted() -> bool:
            async with service.database.reading() as connection:
                left = select(job_runs.c.id).where(job_runs.c.job == "gone").limit(1)
                return (await connection.execute(left)).first() is None

        await until(deleted)
