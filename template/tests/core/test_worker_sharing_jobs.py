"""Jobs that are added at run time to a shared store, and run on workers."""

import asyncio
from pathlib import Path

import pytest

from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.test_store_shared import ids
from tests.core.test_worker import lines, notes, working
from tests.core.waiting import outcomes, until
from tests.core.working import brief

pytestmark = pytest.mark.anyio
__all__ = ["notes"]


async def test_a_one_off_job_runs_once_on_a_worker_and_is_gone(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with scheduling() as here:
        job = await here.scheduler.add_job_async(brief, kwargs={"word": "once"})
        async with working(settings):
            assert await outcomes(here.database, job.id) == ["succeeded"]

            async def gone() -> bool:
                return await ids(here) == []

            await until(gone)
    assert [line[:2] for line in lines(notes)] == [["brief", "once"]]


async def test_a_recurring_job_stays(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with working(settings), scheduling() as here:
        await here.scheduler.add_job_async(brief, "interval", seconds=0.2, id="often")
        await until(lambda: asyncio.sleep(0.02, len(lines(notes)) >= 2))
        assert await ids(here) == ["often"]
