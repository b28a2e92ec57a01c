"""Locks that replicas share: leases, and what becomes of them."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.scheduling import Job, interval
from app.settings import Settings
from tests.core.fixtures import Scheduling, environment
from tests.core.replica import slow
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


async def test_the_runs_of_a_killed_replica_are_run_again(
    scheduling: Scheduling, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = subprocess.Popen(
        [sys.executable, "-m", "tests.core.replica"],
        env=environment(settings, FILE=str(tmp_path / "notes"), JOB="slow"),
    )
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
