"""The processes of the process pool: what becomes of runs when what they are forked off dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.core.database import Database
from app.core.executors import Call, Ended, processes
from app.core.executors.processpool import ProcesspoolExecutor
from app.core.scheduling import Job
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.waiting import is_alive, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def executor(settings: Settings, database: Database) -> AsyncIterator[ProcesspoolExecutor]:
    made = ProcesspoolExecutor(settings, database)
    yield made
    await made.close()


def call(job: Job, **kwargs: Any) -> Call:
    return Call(job, job.id, (), kwargs, datetime.now(UTC), attempt=1, fence=1, run_id=1)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def noted(file: Path) -> tuple[int, int]:
    """The process that wrote a note last, and the one above that."""
    pid, _, above = lines(file)[-1].split()
    return int(pid), int(above)


@pytest.mark.parametrize("forks", [True, False])
async def test_workers_end_with_their_nursery_and_the_next_begin_anew(
    executor: ProcesspoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    monkeypatch.setattr(processes, "_FORKS", forks)
    file, begun, never = tmp_path / "note", tmp_path / "begun", str(tmp_path / "never")
    hold = [call(sample_jobs.hold_lock, file=str(begun), until=never, name=n) for n in "ab"]
    runs = [asyncio.create_task(executor.execute(each)) for each in hold]
    await until(lambda: asyncio.sleep(0, len(lines(begun)) == 2))
    _, nursery = noted(begun)
    os.kill(nursery, signal.SIGKILL)
    for ended in await asyncio.gather(*runs):
        assert ended.outcome == "failed"
        assert "ended with exit code -9" in str(ended.error)
    gone = [nursery, *(int(line.split()[0]) for line in lines(begun))]
    await until(lambda: asyncio.sleep(0, not any(map(is_alive, gone))))
    assert await executor.execute(call(sample_jobs.note, file=str(file))) == Ended("succeeded")
    idle, other = noted(file)
    assert other not in (nursery, os.getpid())
    os.kill(other, signal.SIGKILL)
    await until(lambda: asyncio.sleep(0, not is_alive(idle)))  # idle: that costs no run
    assert await executor.execute(call(sample_jobs.note, file=str(file))) == Ended("succeeded")


async def test_where_libraries_take_to_no_fork_a_worker_is_a_new_interpreter(
    executor: ProcesspoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_FORKS", False)
    file = tmp_path / "note"
    for _ in range(2):
        assert await executor.execute(call(sample_jobs.note, file=str(file))) == Ended("succeeded")
    first, second = lines(file)
    assert first == second
    worker, nursery = noted(file)
    assert os.getpgid(worker) == worker
    await executor.close()
    assert not any(map(is_alive, (worker, nursery)))


async def test_workers_that_cannot_start_fail_their_runs(
    executor: ProcesspoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_BOOT", "raise SystemExit('{forks}')")
    both = [executor.execute(call(sample_jobs.fail)) for _ in range(2)]
    for ended in await asyncio.gather(*both):
        assert ended.outcome == "failed"
        assert "could not start" in str(ended.error)
