"""Waiting for an outcome, with a generous time-out: the machines that run tests are shared."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from app.core.database import Database
from app.core.scheduling import interval
from app.core.scheduling.triggers import Interval
from app.core.schema import job_runs
from app.core.service import Service


def far_off(step: float = 3600) -> Interval:
    """A schedule that is not due while tests run: its instants are half a step away."""
    return interval(seconds=step, offset=time.time() + step / 2)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first true value that the condition gives."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not so within {seconds} s; last: {value!r}"
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, 0.05)  # who waits long leaves the processor to what it waits for
    return value


def is_alive(pid: int) -> bool:
    """Is there such a process, and has it not ended?"""
    state = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not state.exists() or " Z " not in state.read_text()
    except OSError:  # it is gone
        return False


async def runs(database: Database, job: str = "%") -> list[Row[Any]]:
    """The ledger's rows of a job, or of those added at run time from it, in order of fire time."""
    statement = (
        select(job_runs).where(job_runs.c.job.like(f"{job}%")).order_by(job_runs.c.fire_time)
    )
    # Read on the spot: a coroutine's way to the database and back costs ten times as much.
    with database.engine.connect().execution_options(writes=False) as connection:
        return list(connection.execute(statement))


async def no_gaps(database: Database, job: str, step: int) -> bool:
    """Follows each record of a job's fires on the one before, in microseconds?

    What a busy machine made it miss is recorded a lease later, a stretch as one row.
    """
    found = await runs(database, job)
    begins = [row.first_fire_time or row.fire_time for row in found]
    return {b - a.fire_time for a, b in zip(found, begins[1:], strict=False)} == {step}


async def succeeded(database: Database, job: str) -> Row[Any]:
    """The first run of a job that has, however many were skipped before on a busy machine."""

    async def good() -> list[Row[Any]]:
        return [row for row in await runs(database, job) if row.outcome == "succeeded"]

    found: list[Row[Any]] = await until(good)
    return found[0]


async def outcomes(database: Database, job: str, count: int = 1, seconds: float = 30) -> list[str]:
    """The outcomes of a job's runs once there are so many."""

    async def settled() -> list[str]:
        found = [row.outcome for row in await runs(database, job) if row.outcome]
        return found if len(found) >= count else []

    found: list[str] = await until(settled, seconds)
    return found


@asynccontextmanager
async def without_slots(service: Service) -> AsyncIterator[None]:
    """Meanwhile no fire begins on the event loop; some are due when this begins."""
    executor = service.runner.executors["asyncio"]
    slots, executor.slots = executor.slots, 0
    await asyncio.sleep(0.5)
    yield
    executor.slots = slots
    service.runner._wake.set()
