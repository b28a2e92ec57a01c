"""Procrastinate: its queue is a table, so a claim and its message are one transaction."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from procrastinate.schema import SchemaManager
from sqlalchemy import Engine as Connections
from sqlalchemy import create_engine, make_url, text

from app.core import migrate as core_migrate
from app.core import wiring
from app.core.database import Database
from app.core.executors import procrastinate_, procrastinate_connector, procrastinate_tables
from app.core.executors.engine import Engine
from app.settings import Settings
from tests.core.cable import Cable
from tests.core.engine_fixtures import (
    Send,
    Worker,
    at,
    line,
    message,
    send,
    sender,
    serving,
    worker,
)
from tests.core.fixtures import servers
from tests.core.waiting import until

__all__ = ["line", "send", "sender", "worker"]
pytestmark = pytest.mark.anyio


async def waiting(database: Database) -> list[str]:
    async with database.reading() as connection:
        found = await connection.scalars(text("SELECT args->>'message' FROM procrastinate_jobs"))
        return list(found)


async def test_what_is_rolled_back_was_never_sent(sender: Engine, database: Database) -> None:
    async with database.writing() as connection:
        await sender.enqueue(connection, [message()])
        await connection.rollback()
    assert await waiting(database) == []


async def test_sent_again_while_it_waits_it_is_one_message_with_what_was_sent_last(
    settings: Settings,
    sender: Engine,
    send: Send,
    database: Database,
    worker: Worker,
) -> None:
    first, second = message("first"), message("second")
    await send(first, second)
    again = {**first, "fence": 2}
    await send(again, message("third"))
    assert len(await waiting(database)) == 3
    async with serving(settings, worker.handle, slots=1):
        await worker.has(3)
    assert worker.handled[0] == again
    assert [each["key"] for each in worker.handled] == ["first", "second", "third"]


async def test_nothing_is_left_of_what_was_handled(
    settings: Settings, send: Send, database: Database, worker: Worker
) -> None:
    async def handle(message: Any) -> None:
        await worker.handle(message)
        raise RuntimeError("no")

    await send(message(), message())
    async with serving(settings, handle):
        await worker.has(2)
    assert await waiting(database) == []


async def test_a_claim_fails_as_if_the_database_had_when_the_message_cannot_be_sent(
    sender: Engine, database: Database
) -> None:
    async with database.writing() as connection:
        await connection.execute(text("DROP FUNCTION procrastinate_defer_jobs_v1"))
        with pytest.raises(ConnectionError, match="procrastinate_defer_jobs_v1"):
            await sender.enqueue(connection, [message()])
        await connection.rollback()


async def test_after_a_long_outage_a_worker_is_woken_as_before(
    settings: Settings,
    send: Send,
    worker: Worker,
    line: Cable,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procrastinate_, "_POLL", 600)
    monkeypatch.setitem(procrastinate_connector._POOL, "timeout", 0.2)
    worker.go.clear()
    listening = text(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )

    async def listens() -> bool:
        async with database.reading() as connection:
            return (await connection.execute(listening)).first() is not None

    async def woken() -> bool:
        """By one of some: what comes while it looks for the last waits for its poll."""
        before = len(worker.handled)
        await send(message())
        await asyncio.sleep(0.2)
        return len(worker.handled) > before

    async with serving(at(settings, line.url), worker.handle, slots=1000):
        await until(listens)
        await until(woken)
        line.cut()
        await asyncio.sleep(1.5)
        line.mend()
        await until(woken)
        worker.go.set()


async def test_a_worker_waits_for_tables_that_are_not_there_yet(
    settings: Settings, database: Database, send: Send, worker: Worker
) -> None:
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE procrastinate_jobs RENAME TO later"))
    async with serving(settings, worker.handle):
        await asyncio.sleep(0.3)
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE later RENAME TO procrastinate_jobs"))
        await send(message())
        await worker.has(1)


async def test_what_a_killed_worker_had_fetched_is_forgotten(
    settings: Settings, send: Send, database: Database, worker: Worker
) -> None:
    await send(message("killed"))
    async with database.writing() as connection:
        await connection.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
    async with serving(settings, worker.handle):
        await send(message("later"))
        await worker.has(1)
        await until(lambda: asyncio.sleep(0.02, True))
    assert await waiting(database) == []
    assert [each["key"] for each in worker.handled] == ["later"]


@pytest.fixture
def connections(tmp_path: Path) -> Connections:
    url = make_url(servers.empty(tmp_path)).set(drivername="postgresql+psycopg")
    return create_engine(url)


def test_its_tables_are_brought_up_to_date_with_the_library(connections: Connections) -> None:
    scripts = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    older = [path for path in scripts if path.name < "03.01"]
    with connections.begin() as connection:
        connection.execute(text("CREATE TABLE core_procrastinate_version (name text)"))
        for path in older:
            connection.exec_driver_sql(path.read_text(), execution_options={"no_parameters": True})
            connection.execute(
                text("INSERT INTO core_procrastinate_version VALUES (:name)"), {"name": path.name}
            )
    with connections.begin() as connection:
        assert procrastinate_tables.pending(connection) == ["procrastinate"]
        procrastinate_tables.migrate(connection)
        assert procrastinate_tables.pending(connection) == []
    with connections.begin() as connection:
        upgraded = columns(connection)
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        procrastinate_tables.migrate(connection)
        assert columns(connection) == upgraded
        assert procrastinate_tables.pending(connection) == []


def columns(connection: Any) -> set[Any]:
    tables = connection.execute(
        text(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_name LIKE 'procrastinate%'"
            " UNION SELECT 'function', proname, '' FROM pg_proc WHERE proname LIKE 'procrastin%'"
        )
    )
    return set(map(tuple, tables))


def test_its_tables_are_nobodys_models(make_settings: Callable[..., Settings]) -> None:
    database = Database(make_settings(), wiring.database.DIALECT)
    core_migrate.check(database)
    database.engine.dispose()


def test_an_address_may_hold_what_it_likes(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(database_url="postgresql://me:p%40%2F%25@host:5433/name")
    made = procrastinate_.engine(settings, Database(settings, wiring.database.DIALECT))
    assert getattr(made, "_url", None) == "postgresql://me:p%40%2F%25@host:5433/name"
