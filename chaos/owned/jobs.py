"""Jobs that note what they did in `chaos_effects`: nothing else counts as done."""

import asyncio
import os
import time
from typing import Any

from app.core.database import current
from app.core.scheduling import FenceLost, Run, interval, job
from app.core.scheduling.triggers import microseconds
from sqlalchemy import Insert, column, insert, table

_effects = table(
    "chaos_effects",
    *map(column, ("what", "name", "fire_time", "fence", "attempt", "replica", "at")),
)
# A database that is away for some seconds fails a body, and its owner wants it run again.
PATIENT: dict[str, Any] = {"retries": 20, "backoff": 0.2, "overlap": "allow"}


def note(run: Run, what: str, name: str) -> Insert:
    return insert(_effects).values(
        what=what,
        name=name,
        fire_time=microseconds(run.fire_time),
        fence=run.fence,
        attempt=run.attempt,
        replica=os.environ["REPLICA"],
        at=time.time_ns() // 1000,
    )


async def work(run: Run, name: str, before: float, after: float) -> None:
    """Take some time, have the effect, and take some more, in which a process can die."""
    async with current().unit_of_work() as session:
        await session.execute(note(run, "began", name))
    await asyncio.sleep(before)
    try:
        async with run.unit_of_work() as session:
            await session.execute(note(run, "effect", name))
    except FenceLost:
        async with current().unit_of_work() as session:
            await session.execute(note(run, "refused", name))
        raise
    await asyncio.sleep(after)


@job(interval(seconds=1), executor="asyncio", **PATIENT)
async def fast(run: Run) -> None:
    await work(run, "fast", before=0.1, after=0.3)


@job(interval(seconds=5, offset=2), executor="asyncio", **PATIENT)
async def slow(run: Run) -> None:
    await work(run, "slow", before=1.0, after=0.5)


@job(interval(seconds=5), executor="processpool", **PATIENT)
def heavy(run: Run) -> None:
    with current().unit_of_work_sync() as session:
        session.execute(note(run, "began", "heavy"))
    time.sleep(1.0)
    try:
        with run.unit_of_work() as session:
            session.execute(note(run, "effect", "heavy"))
    except FenceLost:
        with current().unit_of_work_sync() as session:
            session.execute(note(run, "refused", "heavy"))
        raise
    time.sleep(0.5)


@job(executor="asyncio", **PATIENT)
async def remind(run: Run, name: str) -> None:
    """Added over HTTP, while the service runs."""
    await work(run, name, before=0.1, after=0.1)
