"""Locks that replicas share: leases, and what becomes of them."""

import asyncio
import time
from collections.abc import Callable

import pytest

from app.core import wiring
from app.core.scheduling import Job, Run, interval
from app.core.scheduling.answers import Fire, Refused
from app.core.scheduling.heartbeat import Heartbeat
from app.settings import Settings
from tests.core.fixtures import Scheduling, time_goes_by
from tests.core.waiting import runs, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("on_store_loss", ["cancel", "continue"])
async def test_a_silent_database_ends_a_run_after_a_whole_lease(
    scheduling: Scheduling,
    settings: Settings,
    declare: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    on_store_loss: str,
) -> None:
    """Unless its job says that it shall go on: another replica may begin it again by then."""
    begun: list[str] = []
    ended: list[str] = []
    silences = 0

    async def wait() -> None:
        begun.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def silent(self: object, fences: object) -> None:
        nonlocal silences
        silences += 1
        raise OSError("the database does not answer")

    brief = settings.model_copy(update={"lease_seconds": 0.2, "shutdown_grace_seconds": 0.05})
    async with scheduling(settings=brief) as service:
        answers = type(service.runner.ledger).beat
        monkeypatch.setattr(type(service.runner.ledger), "beat", silent)
        job = declare(wait, on_store_loss=on_store_loss)
        await service.scheduler.add_job_async(job, jobstore="memory", executor="asyncio")
        await until(lambda: asyncio.sleep(0, ended or silences > 8))
        assert bool(ended) == (on_store_loss == "cancel")
        assert ended or begun == ["begun"]  # nor does it begin again here, where it still runs
        monkeypatch.setattr(type(service.runner.ledger), "beat", answers)
        if ended:  # a job of this process's memory: nobody else could run it again
            await until(lambda: asyncio.sleep(0, len(begun) > 1))


async def test_a_commit_that_nobody_heard_of_keeps_its_job_from_running_for_a_lease_at_most(
    scheduling: Scheduling,
    settings: Settings,
    declare: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run has its outcome, so nobody takes it over; and it had the key of its job."""
    begun: list[Run] = []

    async def commit(run: Run) -> None:
        begun.append(run)
        async with run.unit_of_work():
            pass
        if len(begun) == 1:
            await asyncio.sleep(60)

    async def silent(self: object, fences: object) -> None:
        raise OSError("the database does not answer")

    brief = settings.model_copy(update={"lease_seconds": 0.5, "shutdown_grace_seconds": 0.05})
    job = declare(commit, interval(seconds=0.2), executor="asyncio")
    async with scheduling(job, settings=brief) as service:
        monkeypatch.setattr(type(service.runner.ledger), "beat", silent)
        await until(lambda: asyncio.sleep(0, len(begun) > 1))


async def test_a_run_that_is_late_with_its_heartbeat_is_alive_to_its_own_replica(
    scheduling: Scheduling, settings: Settings, declare: Callable[..., Job]
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await end.wait()

    async with scheduling(settings=settings) as service:
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")
        await begun.wait()
        (row,) = await runs(service.database)
        time_goes_by(settings, service.database, settings.lease_seconds + 1)
        following = Fire(row.job, row.fire_time + 1, row.active_key)
        assert await service.ledger.claim([following]) == [Refused("skipped")]
        end.set()


async def test_a_call_that_does_not_return_is_silence_too(
    scheduling: Scheduling,
    settings: Settings,
    declare: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frozen server; where one process writes at a time, that one keeps all others off, too."""
    ended: list[str] = []
    asked: list[float] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def hang(self: object, fences: object) -> None:
        asked.append(time.monotonic())
        await asyncio.sleep(60)

    brief = settings.model_copy(update={"lease_seconds": 0.2, "shutdown_grace_seconds": 0.05})
    one_writes = wiring.database.DIALECT.longest_write(1) is not None
    async with scheduling(settings=brief) as service:
        monkeypatch.setattr(type(service.runner.ledger), "beat", hang)
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")
        await until(lambda: asyncio.sleep(0, asked))
        await until(
            lambda: asyncio.sleep(0, ended or (one_writes and time.monotonic() > asked[0] + 0.5))
        )
        assert bool(ended) != one_writes


async def test_a_run_that_was_claimed_since_the_database_was_heard_has_its_lease(
    scheduling: Scheduling, settings: Settings, declare: Callable[..., Job]
) -> None:
    """The first heartbeat after a silence can be later than the first claim."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    brief = settings.model_copy(update={"shutdown_grace_seconds": 0.05})
    async with scheduling(settings=brief) as service:
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")
        (run,) = await until(lambda: asyncio.sleep(0, list(service.runner._running.values())))
        await until(lambda: asyncio.sleep(0, run._body is not None))
        heartbeat = Heartbeat(service.runner.ledger, service.runner._running)
        heartbeat._heard = float("-inf")
        heartbeat._judge(lease=600)
        assert not run.lost
        heartbeat._judge(lease=0)
        assert run.lost
        await until(lambda: asyncio.sleep(0, ended))
