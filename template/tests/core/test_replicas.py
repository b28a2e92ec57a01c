"""Several processes on one database: each fire once, and one word for all of them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core.scheduling import Job, interval
from app.core.scheduling.cursors import Cursors
from app.settings import Settings
from tests.core.fixtures import Scheduling, other_replica
from tests.core.replica import often, tick
from tests.core.waiting import succeeded, until

pytestmark = pytest.mark.anyio
Declare = Callable[..., Job]


async def nothing() -> None:
    """The body of jobs whose record is what matters."""


async def test_two_processes_on_one_database_run_each_fire_once(
    scheduling: Scheduling, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is one of the two."""
    file = tmp_path / "notes"
    monkeypatch.setenv("FILE", str(file))

    async def both_have_run() -> bool:
        processes = [line.split()[1] for line in file.read_text().splitlines()]
        return str(other.pid) in processes[:-3]

    with other_replica(settings, tick) as other:
        async with scheduling(often(tick)):
            await until(lambda: asyncio.sleep(0, file.exists()))
            await until(both_have_run)
        other.terminate()
        assert await asyncio.to_thread(other.wait, 30) == 0
    fires = Counter(line.split()[0] for line in file.read_text().splitlines())
    assert len(fires) > 3
    assert set(fires.values()) == {1}


async def test_a_declared_job_is_paused_and_rescheduled_for_all_replicas(
    scheduling: Scheduling, settings: Settings, declare: Declare
) -> None:
    job = declare(nothing, interval(hours=5), executor="asyncio")
    async with scheduling(job) as first, scheduling(job) as second:
        with pytest.raises(RuntimeError, match=r"await scheduler\.pause_job_async"):
            first.scheduler.pause_job("nothing")
        until_when = datetime.now(UTC) + timedelta(hours=1)
        paused = await first.scheduler.pause_job_async(
            "nothing", by="me", reason="holiday", until=until_when
        )
        assert paused.next_run_time is None

        async def paused_there() -> bool:
            held = second.scheduler.get_job("nothing")
            return held is not None and held.next_run_time is None

        await until(paused_there)
        (row,) = (await Cursors(second.database, "x").all()).values()
        assert (row.paused_by, row.pause_reason) == ("me", "holiday")

        resumed = await asyncio.to_thread(second.scheduler.resume_job, "nothing")
        assert resumed.next_run_time is not None
        await second.scheduler.reschedule_job_async("nothing", trigger="interval", seconds=0.1)
        await succeeded(first.database, "nothing")
