"""A ledger of a million rows, against an empty one: nothing that is done all day may slow down."""

from __future__ import annotations

import asyncio
import functools
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Work, in_turn, ratio
from benchmarks.rendered import measure, render, settings

if TYPE_CHECKING:
    from app.core.database import Database

ROWS, CALLS = 1_000_000, 60
_numbers = count(1)
# A few are open.
_FILL = """
    INSERT INTO job_runs
        (job, fire_time, fence, replica, attempt, outcome, lease_until, finished_at)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
    SELECT 'job-' || (n % 1000), n, -n, 'a', 1,
        CASE WHEN n % 5000 = 0 THEN NULL ELSE 'succeeded' END,
        CASE WHEN n % 5000 = 0 THEN 9000000000000000 END, 9000000000000000
    FROM numbers
"""


def ledger(work: Path) -> None:
    for database in ("postgresql", "sqlite"):
        print(f"\n  {ROWS:,} rows in the ledger of {database}, against none", flush=True)
        folder = work / f"ledger-{database}"
        measure("ledger", render(folder, database=database, executor="asyncio"))


def works(database: Database, name: str) -> dict[str, Work]:
    from app.core import wiring
    from app.core.scheduling.answers import Fire, Won
    from app.core.scheduling.retention import Retention
    from app.settings import Settings

    assert isinstance(database.settings, Settings)
    ledger = wiring.lock.ledger(database.settings, database, "a")

    async def win() -> None:
        key = f"new-{next(_numbers)}"
        (won,) = await ledger.claim([Fire(key, time.time_ns() // 1000, key)])
        assert isinstance(won, Won)
        await ledger.finish(won.fence, "succeeded", attempt=1)

    return {
        f"{name}: claim": win,
        f"{name}: expired": ledger.expired,
        f"{name}: disown": functools.partial(ledger.disown, []),
        f"{name}: sweep": Retention(database, 86_400).sweep,
    }


async def main() -> None:
    from app.core import wiring
    from app.core.database import Database
    from sqlalchemy import text

    with settings() as empty, settings() as full:
        databases = [Database(given, wiring.database.DIALECT) for given in (empty, full)]
        async with databases[1].writing() as connection:
            await connection.execute(text(_FILL.format(rows=ROWS)))
        times = await in_turn(
            {**works(databases[0], "empty"), **works(databases[1], "full")}, CALLS
        )
        for label, name, goal in (
            ("claim and record", "claim", 1.1),
            ("looking for dead runs", "expired", None),
            ("looking for claims that were cut off", "disown", None),
            ("looking for what is too old", "sweep", None),
        ):
            ratio(label, times[f"full: {name}"], times[f"empty: {name}"], goal)
        for database in databases:
            await database.close()


if __name__ == "__main__":
    asyncio.run(main())
