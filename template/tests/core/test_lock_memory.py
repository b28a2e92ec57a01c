"""The memory lock: one process schedules, and knows that it is the only one."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Row, update

from app.core.app import create_app
from app.core.database import Database
from app.core.databases import AlreadyScheduling
from app.core.locks import memory
from app.core.scheduling import Job, interval
from app.core.scheduling.answers import Fire
from app.core.scheduling.ledger import Ledger
from app.core.schema import job_runs
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import Declare, Scheduling
from tests.core.test_health import ready
from tests.core.waiting import outcomes, runs, succeeded, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def noting(declare: Declare, tmp_path: Path) -> Job:
    """A job that is often due."""
    return declare(
        sample_jobs.note.function,
        interval(seconds=0.1),
        executor="threadpool",
        id="note",
        kwargs={"file": str(tmp_path / "notes")},
    )


async def succeeded_again(database: Database, run: Row[Any]) -> bool:
    (row,) = [row for row in await runs(database, run.job) if row.id == run.id]
    return (row.attempt, row.outcome) == (2, "succeeded")


async def test_a_second_scheduling_process_is_refused_and_told_what_to_do(
    scheduling: Scheduling,
) -> None:
    async with scheduling():
        with pytest.raises(AlreadyScheduling, match="SCHEDULER_ENABLED=false"):
            async with scheduling():
                pass


def test_a_process_that_only_serves_may_stand_beside_it(settings: Settings) -> None:
    serving = settings.model_copy(update={"scheduler_enabled": False})
    with TestClient(create_app(settings)), TestClient(create_app(serving)) as beside:
        assert ready(beside)


async def test_no_claims_are_made_while_another_process_may_make_them(
    scheduling: Scheduling, noting: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "WATCH", 0.05)
    alone = True
    whole = memory._enter

    def enter(*arguments: Any) -> Callable[[], bool]:
        whole(*arguments)
        if not alone:
            raise AlreadyScheduling("somebody")
        return lambda: alone

    monkeypatch.setattr(memory, "_enter", enter)
    async with scheduling(noting) as service:
        ledger = service.runner.ledger
        alone = False
        await until(lambda: asyncio.sleep(0, ledger.suspended))
        with pytest.raises(RuntimeError, match="suspended"):
            await ledger.claim([Fire("x", 0, None)])
        with pytest.raises(ConnectionError, match="another process may be making claims"):
            await ledger.check()
        alone = True
        await until(lambda: asyncio.sleep(0, not ledger.suspended))
        await outcomes(service.database, "note")


async def test_a_database_that_is_frozen_keeps_nobody_from_stopping(
    scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "WATCH", 0.05)
    monkeypatch.setattr(memory, "PATIENCE", 0.2)
    thawed, whole = threading.Event(), memory._enter

    def enter(ledger: Ledger, guard: ExitStack) -> Callable[[], bool]:
        whole(ledger, guard)
        guard.callback(thawed.wait)
        return thawed.wait

    monkeypatch.setattr(memory, "_enter", enter)
    try:
        async with asyncio.timeout(60), scheduling() as service:
            await until(lambda: asyncio.sleep(0, service.ledger.suspended))
    finally:
        thawed.set()


async def test_whom_another_process_relieved_runs_what_that_left(
    scheduling: Scheduling, noting: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scheduling(noting) as service:
        monkeypatch.setattr(memory, "WATCH", 0.05)
        first = await succeeded(service.database, "note")
        left = {"outcome": None, "lease_until": 2**62, "replica": "another"}
        async with service.database.writing() as connection:
            row = job_runs.c.id == first.id
            await connection.execute(update(job_runs).where(row).values(**left))
        service.ledger.suspended = True
        await until(lambda: succeeded_again(service.database, first))


async def test_a_lease_never_ends_and_the_next_process_runs_what_was_left(
    scheduling: Scheduling, noting: Job
) -> None:
    async with scheduling(noting) as service:
        first = await succeeded(service.database, "note")
    async with scheduling() as service:
        assert first.lease_until is None
        left = {"outcome": None, "lease_until": 2**62}
        async with service.database.writing() as connection:
            await connection.execute(
                update(job_runs).where(job_runs.c.id == first.id).values(**left)
            )
    async with scheduling(noting) as service:
        await until(lambda: succeeded_again(service.database, first))
