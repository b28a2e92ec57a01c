"""A server that crashes or freezes under the service, a file that somebody else has locked."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from app.core.database import Database
from app.core.health import router
from app.core.scheduling import Job, Run, audit, interval
from app.core.schema import job_counters
from app.core.service import Service
from app.settings import Settings
from tests.core.fixtures import Declare, Outage, Outages, Scheduling, servers_apart
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio
AWAY = 6.0
"""Seconds: longer than any call waits for an answer."""


@pytest.fixture
def apart(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> Iterator[tuple[Settings, Outages]]:
    with servers_apart(tmp_path) as (urls, outages):
        yield make_settings(**urls), outages


@pytest.fixture
def adding(declare: Declare) -> Job:
    async def adding(run: Run) -> None:
        async with run.unit_of_work() as session:
            await session.execute(update(job_counters).values(value=job_counters.c.value + 1))

    return declare(adding, interval(seconds=0.2), executor="asyncio")


async def counted(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(select(job_counters.c.value))).scalar_one())


async def goes_on(database: Database) -> None:
    """Three more runs have succeeded, and of no fire since the beginning is there no record."""

    async def successes() -> int:
        return sum(row.outcome == "succeeded" for row in await runs(database, "adding"))

    before = await successes()

    async def three_more() -> bool:
        return await successes() >= before + 3

    async def complete() -> bool:
        return not (await audit(database))["adding"].gaps

    await until(three_more, 60)
    await until(complete, 60)


@contextmanager
def loop_runs() -> Iterator[None]:
    """No call waits for a server here: that would have taken the whole outage."""
    pauses: list[float] = []

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - before)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert max(pauses) < AWAY / 2


@asynccontextmanager
async def happening(outage: Outage) -> AsyncIterator[None]:
    """The loop is not held by what the test itself does."""
    entered = outage()
    await asyncio.to_thread(entered.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


@asynccontextmanager
async def asked(service: Service, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """The routes about health, on the loop that the service runs on."""
    app = FastAPI()
    app.include_router(router)
    app.state.service, app.state.database, app.state.settings = service, service.database, settings
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def reads(database: Database) -> bool:
    """A file that somebody else writes to can still be read."""
    try:
        await counted(database)
    except Exception:
        return False
    return True


async def test_an_outage_loses_no_fire_doubles_no_effect_and_holds_no_loop(
    scheduling: Scheduling, apart: tuple[Settings, Outages], adding: Job
) -> None:
    settings, outages = apart
    async with (
        scheduling(adding, settings=settings) as service,
        asked(service, settings) as client,
    ):
        database = service.database
        before = await counted(database)
        await goes_on(database)

        async def ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        for outage in outages:
            with loop_runs():
                async with happening(outage):
                    await asyncio.sleep(AWAY)
                    assert (await client.get("/health/live")).status_code == 200
                    response = await client.get("/health/ready")
                    if response.status_code == 200:
                        assert await reads(database)
                    else:
                        assert set(response.json()["checks"].values()) - {"ok"}
            await goes_on(database)
            await until(ready)
    async with scheduling(settings=settings.model_copy(update={"scheduler_enabled": False})) as it:
        succeeded = [row for row in await runs(it.database) if row.outcome == "succeeded"]
        assert await counted(it.database) == before + len(succeeded)


async def test_a_service_that_starts_in_an_outage_heals_by_itself(
    scheduling: Scheduling, apart: tuple[Settings, Outages], adding: Job
) -> None:
    settings, outages = apart
    for outage in outages:
        async with AsyncExitStack() as stack:
            async with happening(outage):
                service = await stack.enter_async_context(scheduling(adding, settings=settings))
            await goes_on(service.database)
