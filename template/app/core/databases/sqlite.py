"""SQLite: one file, one host, one writer at a time."""

import fcntl
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr, field_validator
from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Index,
    Select,
    Subquery,
    Table,
    bindparam,
    event,
    func,
    literal_column,
    make_url,
    null,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from app.core.databases import AlreadyScheduling, parsed
from app.core.schema import OPEN, job_runs
from app.core.settings import ServiceSettings

Index("ix_job_runs_open", job_runs.c.lease_until, sqlite_where=OPEN)
_MOUNTS = Path("/proc/mounts")
_SHARED = re.compile(
    r"(nfs|smb)\d?|smbfs|cifs|afs|lustre|gpfs|ocfs2|gfs2|(fuse\.)?(ceph(-fuse)?|glusterfs|beegfs)|"
    r"fuse\.(sshfs|s3fs|rclone|juicefs|gcsfuse|blobfuse2?|mountpoint-s3)"
)


class DatabaseSettings(ServiceSettings):
    database_url: SecretStr = SecretStr("sqlite:///./service.db")

    @field_validator("database_url")
    @classmethod
    def _is_sqlite_file(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith("sqlite:///"):
            raise ValueError(
                "must be an SQLite file, as this service was made for SQLite; "
                "for example DATABASE_URL=sqlite:///./service.db"
            )
        name = make_url(parsed(value).get_secret_value()).database or ""
        if name in ("", ":memory:") or name.startswith("file:"):  # which may be of memory, too
            raise ValueError("must name a file; for example DATABASE_URL=sqlite:///./service.db")
        file = Path(name)
        if _SHARED.fullmatch(kind := _file_system(file, _MOUNTS)):
            raise ValueError(
                f"lies on {kind}, a file system that several hosts share, and SQLite's locks hold "
                "on one host only; name a local file, or run `copier update --data "
                "database=postgresql`"
            )
        return value


def _file_system(file: Path, mounts: Path) -> str:
    """The kind of file system that a file is on, where the system says so."""
    if not mounts.exists():
        return ""
    folder, found, depth = file.resolve().parent, "", 0
    # A line of it: device, folder, kind, ...; the innermost folder counts, and the last one there.
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        where = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), where)
        if folder.is_relative_to(where) and len(where) >= depth:
            found, depth = kind, len(where)
    return found


class _Connection(sqlite3.Connection):
    """One whose transaction ends with it.

    A statement that was cut off, and that the traceback of its cancellation still holds, kept it
    open otherwise, and every other writer out.
    """

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()


class Sqlite:
    migrates_on_start = True
    async_driver = "sqlite+aiosqlite"
    sync_driver = "sqlite"
    reading: Mapping[str, Any] = {"writes": None}
    alone: Mapping[str, Any] = {}

    def now(self) -> ColumnElement[int]:
        # unixepoch('subsec') needs SQLite 3.42, newer than the one in Debian 12.
        return literal_column(
            "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", BigInteger
        )

    def next_fence(self, position: ColumnElement[int] | int = 0) -> ColumnElement[int]:
        last = select(func.coalesce(func.max(job_runs.c.fence), 0)).scalar_subquery()
        return func.max(last + 1, self.now()) + position

    def raise_fences(self, connection: Connection) -> None:
        """Each is above the last one that the ledger has."""

    def rows(self, name: str, columns: Mapping[str, TypeEngine[Any]]) -> Subquery:
        each = func.json_each(bindparam(name)).table_valued("value")
        picked = [
            type_coerce(func.json_extract(each.c.value, f"$.{column}"), type_).label(column)
            for column, type_ in columns.items()
        ]
        return select(*picked).subquery(name)

    def only(
        self, table: Table, name: str, matches: Callable[[FromClause], ColumnElement[bool]]
    ) -> tuple[FromClause, ColumnElement[bool]]:
        alias = table.alias(name)
        return alias, matches(alias)

    def asking(
        self, looking: Select[Any], winning: Callable[[FromClause], ReturningInsert[Any]]
    ) -> Select[Any]:
        # Whoever only looks must not wait for the one who writes.
        return looking.add_columns(null().label("won"), null().label("won_id"))

    def insert(self, table: TableClause | type[Any]) -> Insert:
        return insert(table)

    def options(self, url: URL, timeout: float) -> dict[str, Any]:
        return {"connect_args": {"timeout": timeout, "factory": _Connection}}

    def prepare(self, engine: Engine, idle_seconds: float | None = None) -> None:
        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver's own BEGIN comes too late to lock
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get("writes", True)
            if writes is not None:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def ended_when_idle(self, seconds: float) -> ColumnElement[bool]:
        return true()  # there is nobody to end it

    def lock_migrations(self, connection: Connection) -> None:
        """BEGIN IMMEDIATE has done it."""

    @contextmanager
    def only_scheduler(self, engine: Engine) -> Iterator[Callable[[], bool]]:
        with open(f"{engine.url.database}.scheduler", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise AlreadyScheduling(str(engine.url.database)) from None
            yield lambda: True

    def longest_write(self, lease_seconds: float) -> float | None:
        # Held for 5 s over a lease of 3 s, it kept every other run's heartbeat out.
        return lease_seconds / 3


DIALECT = Sqlite()
