"""A process that is frozen for longer than its lease has no effect when it thaws."""

import asyncio
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.core.database import Database
from app.core.scheduling import interval
from app.core.schema import job_counters
from app.settings import Settings
from tests.core.fixtures import Scheduling, other_replica
from tests.core.replica import count
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lease_seconds", [3])  # of which a transaction may take a third
async def test_the_run_of_a_frozen_replica_is_taken_over_and_counts_once(
    scheduling: Scheduling, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("FILE", str(notes))
    async with scheduling(replace(count, schedule=interval(hours=1))) as service:
        database = service.database
        before = await counted(database)

        async def taken_over() -> bool:
            return (2, "succeeded") in {(row.attempt, row.outcome) for row in await runs(database)}

        with other_replica(settings, count) as frozen:
            await until(lambda: asyncio.sleep(0, notes.exists()))
            await until(lambda: freeze(frozen, database))
            await until(taken_over)
            fires = len(await runs(database))
            frozen.send_signal(signal.SIGCONT)

            async def thawed() -> bool:
                return len(await runs(database)) > fires

            await until(thawed)
            frozen.terminate()
            assert await asyncio.to_thread(frozen.wait, 30) == 0
        succeeded = [row for row in await runs(database) if row.outcome == "succeeded"]
        assert await counted(database) == before + len(succeeded)


async def freeze(process: subprocess.Popen[bytes], database: Database) -> bool:
    """Not while it keeps all others from writing, as a process can on SQLite."""
    process.send_signal(signal.SIGSTOP)
    try:
        async with database.writing():
            return True
    except OperationalError:
        process.send_signal(signal.SIGCONT)
        return False


async def counted(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(select(job_counters.c.value))).scalar_one())
