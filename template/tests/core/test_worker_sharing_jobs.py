"""Jobs that are added at run time to a shared store, and run on workers."""

import asyncio
from pathlib import Path

import pytest

from app.core.stores import Definition, UnreadableDefinition
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.test_store_shared import ids
from tests.core.test_worker import lines, notes, working
from tests.core.waiting import outcomes, runs, until
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


async def test_a_job_that_only_another_version_reads_is_left_to_that(
    scheduling: Scheduling, settings: Settings, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    async def get(id: str) -> Definition:
        asked.append(id)
        raise UnreadableDefinition(id)

    async with scheduling() as here, working(settings) as worker:
        assert worker.definitions
        monkeypatch.setattr(worker.definitions, "get", get)
        job = await here.scheduler.add_job_async(brief)
        await until(lambda: asyncio.sleep(0, asked))
        assert (await runs(here.database, job.id))[0].outcome is None
        assert await ids(here) == [job.id]


async def test_a_job_that_is_paused_while_it_waits_does_not_run(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with scheduling() as here:
        job = await here.scheduler.add_job_async(brief)
        (row,) = await until(lambda: runs(here.database, job.id))
        await here.scheduler.pause_job_async(job.id)
        async with working(settings) as worker:
            message = {"key": row.job, "job": "brief", "kwargs": {}, "fire_time": row.fire_time}
            await worker.handle({**message, "stored": True})
            assert (await runs(here.database, job.id))[0].outcome is None
            assert lines(notes) == []
            await here.scheduler.resume_job_async(job.id)
            await worker.handle({**message, "stored": True})
            assert await outcomes(here.database, job.id) == ["succeeded"]


async def test_a_job_that_is_removed_while_it_waits_does_not_run(
    scheduling: Scheduling, settings: Settings, notes: Path
) -> None:
    async with scheduling() as here:
        job = await here.scheduler.add_job_async(brief)
        await until(lambda: runs(here.database, job.id))
        await here.scheduler.remove_job_async(job.id)
        async with working(settings):
            assert await outcomes(here.database, job.id) == ["cancelled"]
    assert lines(notes) == []
