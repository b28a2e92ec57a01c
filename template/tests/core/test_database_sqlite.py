"""SQLite: what only it can show."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.app import create_app
from app.core.database import Database
from app.core.databases import sqlite
from app.core.scheduling import Run
from app.core.tasks import end
from app.settings import Settings
from tests.core.fixtures import servers
from tests.core.test_health import ready

MOUNTS = """\
/dev/vda / ext4 rw 0 0
files:/export /mnt/shared nfs4 rw 0 0
/dev/vdb /mnt/shared/fast xfs rw 0 0
volume /mnt/two\\040words fuse.glusterfs rw 0 0
/dev/vdc /mnt/again xfs rw 0 0
//files/share /mnt/again cifs rw 0 0
files:/export /mnt/once nfs rw 0 0
/dev/vdd /mnt/once ext4 rw 0 0
"""


def test_a_file_that_several_hosts_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's locks hold on one host only."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(sqlite, "_MOUNTS", mounts)
    there = {"shared": "nfs4", "two words": "fuse.glusterfs", "again": "cifs"}
    for folder, kind in there.items():
        with pytest.raises(ValueError, match=f"lies on {kind}, a file system that several hosts"):
            Settings(database_url=SecretStr(f"sqlite:////mnt/{folder}/service.db"))
    for local in ("/mnt/shared/fast/service.db", "/mnt/once/service.db", "/var/lib/service.db"):
        assert Settings(database_url=SecretStr(f"sqlite:///{local}"))
    mounts.unlink()
    assert Settings(database_url=SecretStr("sqlite:////mnt/shared/service.db"))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:a?mode=memory&uri=true",
        "postgresql://host/name",
    ],
)
def test_a_database_that_is_no_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="for example DATABASE_URL=sqlite:"):
        Settings(database_url=SecretStr(url))


def test_in_production_too_the_start_makes_the_schema(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """There is one host, and nobody else to make it."""
    new = {"database_url": servers.empty(tmp_path), "scheduler_enabled": False}
    with TestClient(create_app(make_settings(environment="production", **new))) as client:
        assert ready(client)["database"] == "ok"


@pytest.mark.anyio
async def test_readers_wait_for_no_writer_and_a_writer_for_the_one_before(
    database: Database, run: Run
) -> None:
    async with database.writing() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert int(await connection.scalar(text("PRAGMA busy_timeout"))) >= 1000
    begun = asyncio.Event()

    async def next_one() -> None:
        async with database.writing():
            begun.set()

    async with run.unit_of_work() as session:
        # It holds the file before it has written anything: what it reads stays true.
        writing = asyncio.create_task(next_one())
        async with database.reading() as connection:
            await connection.execute(text("SELECT * FROM job_counters"))
        await asyncio.sleep(0.1)
        assert not begun.is_set()
        await session.execute(text("UPDATE job_counters SET value = value + 1"))
    await writing


@pytest.mark.anyio
async def test_a_task_that_is_ended_while_it_waits_to_write_leaves_nothing_open(
    database: Database,
) -> None:
    """It gets the file after it was cancelled, and must live to give it back."""

    async def write() -> None:
        async with database.writing() as connection:
            await connection.execute(text("UPDATE job_counters SET value = value + 1"))

    def hold(held: threading.Event, go: threading.Event) -> None:
        with database.engine.begin():
            held.set()
            go.wait(30)

    held, go = threading.Event(), threading.Event()
    holding = asyncio.create_task(asyncio.to_thread(hold, held, go))
    await asyncio.to_thread(held.wait, 30)
    writing = asyncio.create_task(write())
    await asyncio.sleep(0.1)
    ending = asyncio.create_task(end(writing))
    await asyncio.sleep(0.7)  # a second cancellation after half a second would come meanwhile
    go.set()
    await holding
    await ending
    for _ in range(3):
        await asyncio.wait_for(write(), 20)


@pytest.mark.anyio
async def test_a_statement_that_is_cut_off_at_any_moment_leaves_nothing_open(
    database: Database,
) -> None:
    """While its task, and so the traceback of its cancellation, is held by somebody."""
    answered = 0

    async def write() -> None:
        nonlocal answered
        async with database.writing() as connection:
            statement = "UPDATE job_counters SET value = value + 1 RETURNING value"
            (await connection.execute(text(statement))).all()
            answered += 1

    held: list[asyncio.Task[None]] = []
    for moment in range(1000):
        held.append(asyncio.create_task(write()))
        await asyncio.sleep(moment * 20e-6)
        held[-1].cancel()
        await asyncio.wait(held[-1:])
        await asyncio.wait_for(write(), 20)
        if answered - moment > 30:  # each comes to its end by now
            break
    assert any(task.cancelled() for task in held)
    assert not all(task.cancelled() for task in held)


@pytest.mark.anyio
async def test_who_was_refused_because_somebody_writes_notes_that(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sqlite.DIALECT.options
    monkeypatch.setattr(sqlite.DIALECT, "options", lambda url, timeout: whole(url, 0.2))
    with database.engine.begin():
        with pytest.raises(OperationalError, match="database is locked"):
            async with database.writing():
                pass
        assert time.monotonic() - database.busy_at < 60
