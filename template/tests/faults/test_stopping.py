"""A service that is told to stop, or killed, in mid-run: nothing is lost, nothing stays behind."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.scheduling import audit
from app.settings import Settings
from tests.core.fixtures import Scheduling, environment
from tests.core.waiting import is_alive, runs, until
from tests.faults.stopping import JOBS

pytestmark = pytest.mark.anyio
IDS = {job.id for job in JOBS}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "notes"
    made.touch()
    monkeypatch.setenv("FILE", str(made))
    return made


@contextmanager
def served(settings: Settings, file: Path, grace: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.faults.stopping:service"]
    options = ["--port", "0", "--timeout-graceful-shutdown", "5"]
    given = {"SHUTDOWN_GRACE_SECONDS": str(grace), "LEASE_SECONDS": "5", "MAX_WORKERS": "8"}
    with file.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(
            [*command, *options],
            env=environment(settings, **given, FILE=str(file), MIGRATE_ON_START="false"),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def all_have_begun(file: Path) -> list[int]:
    """Each job is in mid-run; the processes that belong to them."""

    async def begun() -> bool:
        return {line.split()[0] for line in file.read_text().splitlines()} >= IDS

    await until(begun, 60)
    return [int(pid) for line in file.read_text().splitlines() for pid in line.split()[1:]]


async def all_are_gone(pids: list[int]) -> None:
    async def gone() -> bool:
        return not any(map(is_alive, pids))

    await until(gone)


@pytest.mark.parametrize("lease_seconds", [3])  # a busy machine stands still for half a second
async def test_what_runs_at_a_stop_is_finished_or_handed_over(
    scheduling: Scheduling, settings: Settings, file: Path
) -> None:
    """On every executor."""
    with served(settings, file, grace=4) as stopped:
        pids = await all_have_begun(file)
        stopped.terminate()
        assert await asyncio.to_thread(stopped.wait, 60) == -signal.SIGTERM
    await all_are_gone(pids)
    async with scheduling(settings=settings.model_copy(update={"scheduler_enabled": False})) as it:
        left = {row.job for row in await runs(it.database) if row.lease_until}
        # A thread runs on until its process has ended, so its lease ends by itself.
        assert left == {"thread-long"}
        rows = {row.job: row for row in reversed(await runs(it.database)) if row.attempt}
    for id in IDS:
        brief = id.endswith("brief")
        assert rows[id].outcome == ("succeeded" if brief else None), id

    file.with_suffix(".stopped").touch()
    async with scheduling(*JOBS) as service:

        async def ended_elsewhere() -> bool:
            again = {row.id: row for row in await runs(service.database)}
            ended = [again[rows[id].id] for id in IDS if id.endswith("long")]
            return all((row.attempt, row.outcome) == (2, "succeeded") for row in ended)

        await until(ended_elsewhere)

        async def complete() -> bool:
            return not any(of.gaps for of in (await audit(service.database)).values())

        await until(complete)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    settings: Settings, file: Path, second: signal.Signals
) -> None:
    with served(settings, file, grace=600) as stopped:
        pids = await all_have_begun(file)
        stopped.terminate()
        log = file.with_suffix(".log")
        await until(lambda: asyncio.sleep(0, "hutting down" in log.read_text()))
        told = time.monotonic()
        stopped.send_signal(second)
        assert await asyncio.to_thread(stopped.wait, 60) < 0
        assert time.monotonic() - told < 30
    await all_are_gone(pids)


async def test_nothing_outlives_a_service_that_is_killed(settings: Settings, file: Path) -> None:
    with served(settings, file, grace=600) as killed:
        pids = await all_have_begun(file)
        killed.kill()
        killed.wait()
    await all_are_gone(pids)
