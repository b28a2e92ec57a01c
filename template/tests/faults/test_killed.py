"""A process that is killed loses none of its runs."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.scheduling import interval
from app.settings import Settings
from tests.core.fixtures import Scheduling, other_replica, time_goes_by
from tests.core.replica import count
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lease_seconds", [30])  # of which a transaction may take a third
async def test_the_runs_of_a_killed_process_are_run_again(
    scheduling: Scheduling, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("FILE", str(notes))
    with other_replica(settings, count) as killed:
        await until(lambda: asyncio.sleep(0, notes.exists() and notes.read_text()))
        killed.kill()
        killed.wait()
    begun = notes.read_text().split()[0]
    async with scheduling(replace(count, schedule=interval(hours=1))) as service:
        time_goes_by(settings, service.database, 60)

        async def run_again() -> bool:
            ended = {row.attempt: row.outcome for row in await runs(service.database, "count")}
            return ended.get(2) == "succeeded"

        await until(run_again)
    assert [line.split()[0] for line in notes.read_text().splitlines()].count(begun) == 2
