"""Locks in the database: what only they do."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from app.core.database import Database
from app.core.scheduling import Job, Run, interval, lock
from app.core.scheduling.execution import Execution
from app.core.schema import job_locks
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.replica import slow
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


async def test_the_runs_of_a_killed_replica_are_run_again(
    scheduling: Scheduling, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "LEASE_SECONDS": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "FILE": str(tmp_path / "notes"),
        "JOB": "slow",
    }
    replica = subprocess.Popen([sys.executable, "-m", "tests.core.replica"], env=environment)
    notes = tmp_path / "notes"
    await until(lambda: asyncio.sleep(0.02, notes.exists()))
    replica.send_signal(signal.SIGKILL)
    replica.wait()
    monkeypatch.setenv("FILE", str(notes))
    fired = notes.read_text().split()[0]
    async with scheduling(replace(slow, schedule=interval(hours=1))) as service:

        async def taken_over() -> bool:
            again = {row.attempt: row.outcome for row in await runs(service.database, "slow")}
            return again.get(2) == "succeeded"

        await until(taken_over)
    again = [line for line in notes.read_text().splitlines() if line.startswith(fired)]
    assert len(again) == 2


async def test_a_replica_that_lost_its_lease_stops_its_run(
    scheduling: Scheduling, declare: Callable[..., Job]
) -> None:
    ended: list[str] = []

    async def wait(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    job = declare(wait)
    async with scheduling() as service:
        await service.scheduler.add_job_async(job, jobstore="memory", executor="asyncio")

        async def active() -> list[Execution]:
            return list(service.runner._running.values())

        (held,) = await until(active)
        other = type(service.runner.ledger)(service.database, "b", 30, 3600)
        await until(lambda: asyncio.sleep(0.02, held._body is not None))
        await other.hand_over(held.fence, [])  # as if it had been taken over
        await until(lambda: asyncio.sleep(0.02, ended == ["cancelled"]))
        assert [row.outcome for row in await runs(service.database)] == [None]


async def test_a_silent_holder_loses_a_named_lock(database: Database) -> None:
    async with lock("import", lease=0.5) as held:
        async with database.writing() as connection:  # as if its lease had gone by
            await connection.execute(update(job_locks).values(lease_until=0))
        async with lock("import") as other:
            assert other.fence > held.fence
            await until(lambda: asyncio.sleep(0.02, held.lost))


async def test_a_silent_database_ends_a_run_after_a_whole_lease(
    scheduling: Scheduling, declare: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def silent(self: object, fences: object) -> None:
        raise OSError("the database does not answer")

    async with scheduling() as service:
        monkeypatch.setattr(type(service.runner.ledger), "beat", silent)
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")
        await until(lambda: asyncio.sleep(0.02, ended))
