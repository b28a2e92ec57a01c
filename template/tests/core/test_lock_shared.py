"""Locks that replicas share: leases, and what becomes of them."""

import asyncio
from collections.abc import Callable

import pytest

from app.core.scheduling import Job
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_silent_database_ends_a_run_after_a_whole_lease(
    scheduling: Scheduling,
    settings: Settings,
    declare: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def silent(self: object, fences: object) -> None:
        raise OSError("the database does not answer")

    brief = settings.model_copy(update={"lease_seconds": 0.2})
    async with scheduling(settings=brief) as service:
        monkeypatch.setattr(type(service.runner.ledger), "beat", silent)
        await service.scheduler.add_job_async(declare(wait), jobstore="memory", executor="asyncio")
        await until(lambda: asyncio.sleep(0, ended))
