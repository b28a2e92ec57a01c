"""The ledger may hold a million rows: no statement of the scheduler's goes through all of it."""

import re
from typing import Any

import pytest
from sqlalchemy import Engine, event, update

from app.core.scheduling import interval
from app.core.scheduling.retention import Retention
from app.core.schema import job_runs
from app.settings import Settings
from tests.core.fixtures import Declare, Scheduling, servers
from tests.core.waiting import outcomes, until

pytestmark = pytest.mark.anyio
BOUNDED = re.compile(r"\bLIMIT\b")
"""By a page's length, in the order of the primary key."""


async def test_no_statement_goes_through_the_whole_ledger(
    scheduling: Scheduling, declare: Declare, settings: Settings
) -> None:
    said: dict[str, Any] = {}

    def hear(
        _: Any, __: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        if "job_runs" in statement and "LIKE" not in statement:  # which is how tests look
            said[statement] = parameters[0] if executemany else parameters

    async def often() -> None: ...

    job = declare(often, interval(seconds=0.1), executor="asyncio")
    brief = settings.model_copy(update={"lease_seconds": 0.3})
    async with scheduling(job, settings=brief) as service:
        database = service.database
        event.listen(Engine, "before_cursor_execute", hear)
        try:
            await outcomes(database, "often", 3)
            await Retention(database, 86_400).sweep()
            dead = {"outcome": None, "lease_until": 1, "finished_at": None, "replica": "dead"}
            async with database.writing() as connection:
                first = update(job_runs).where(job_runs.c.id == 1)
                await connection.execute(first.values(**dead))

            async def taken_over() -> bool:
                return any("attempts" in statement for statement in said)

            await until(taken_over)
            await outcomes(database, "often", 5)
        finally:
            event.remove(Engine, "before_cursor_execute", hear)
    assert len(said) > 5
    with database.engine.connect().execution_options(writes=False) as reading:
        for statement, parameters in said.items():
            whole = servers.goes_through(reading, "job_runs", statement, parameters)
            assert not whole or BOUNDED.search(statement), statement
        slow = "WHERE error = 'x'"
        for statement in (f"SELECT id FROM job_runs {slow}", f"DELETE FROM job_runs {slow}"):
            assert servers.goes_through(reading, "job_runs", statement, ()), statement
