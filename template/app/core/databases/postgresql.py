"""PostgreSQL, through psycopg 3 for everything: the app, the jobs, the migrations."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    and_,
    bindparam,
    cast,
    column,
    event,
    func,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from app.core.databases import AlreadyScheduling, parsed
from app.core.schema import OPEN, job_runs
from app.core.settings import ServiceSettings, on_this_machine

Index("ix_job_runs_open", job_runs.c.lease_until, postgresql_where=OPEN)
_MIGRATING, _SCHEDULING, _RAISING = 7_340_001, 7_340_002, 7_340_003
# Of a host that is gone without a word: by default the kernel waits a quarter of an hour for it, or
# two hours, where it is the server's turn. A thread that waits cannot be ended.
_GONE = {
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_RAISE = text(
    "SELECT setval('job_fences', highest.fence) "
    "FROM job_fences, (SELECT max(fence) AS fence FROM job_runs) AS highest "
    "WHERE highest.fence > job_fences.last_value"
)


class DatabaseSettings(ServiceSettings):
    database_url: SecretStr = on_this_machine("postgresql://postgres@127.0.0.1:5432/postgres")

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgresql+psycopg://")):
            raise ValueError(
                "must be a PostgreSQL URL, as this service was made for PostgreSQL; "
                "for example DATABASE_URL=postgresql://user:password@host:5432/name"
            )
        return parsed(value)


class Postgresql:
    migrates_on_start = False
    async_driver = sync_driver = "postgresql+psycopg"
    reading: Mapping[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    alone = reading

    def now(self) -> ColumnElement[int]:
        # now() stands still inside a transaction.
        return literal_column(
            "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)", BigInteger
        )

    def next_fence(self, position: ColumnElement[int] | int = 0) -> ColumnElement[int]:
        return literal_column("nextval('job_fences')", BigInteger)

    def raise_fences(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_RAISING)))
        connection.execute(_RAISE)

    def rows(self, name: str, columns: Mapping[str, TypeEngine[Any]]) -> Subquery:
        given = cast(bindparam(name), JSONB)
        each = func.jsonb_to_recordset(given).table_valued(
            *(column(field, type_) for field, type_ in columns.items())
        )
        return select(each.render_derived(with_types=True)).subquery(name)

    def only(
        self, table: Table, name: str, matches: Callable[[FromClause], ColumnElement[bool]]
    ) -> tuple[FromClause, ColumnElement[bool]]:
        # A join would read the whole table: it is planned for a hundred rows of JSON.
        return select(table).where(matches(table)).limit(1).lateral(name), true()

    def asking(
        self, looking: Select[Any], winning: Callable[[FromClause], ReturningInsert[Any]]
    ) -> Select[Any]:
        looked = looking.cte("looked")
        won = winning(looked).cte("won")
        same = and_(won.c.job == looked.c.asked_job, won.c.fire_time == looked.c.asked_time)
        return select(looked, won.c.fence.label("won"), won.c.id.label("won_id")).outerjoin(
            won, same
        )

    def insert(self, table: TableClause | type[Any]) -> Insert:
        return insert(table)

    def options(self, url: URL, timeout: float) -> dict[str, Any]:
        wanted = {"connect_timeout": max(2, int(timeout)), **_GONE}
        return {
            "pool_pre_ping": True,
            "pool_timeout": timeout,
            "connect_args": {name: wanted[name] for name in wanted.keys() - url.query.keys()},
        }

    def prepare(self, engine: Engine, idle_seconds: float | None = None) -> None:
        if idle_seconds is None:
            return
        bound = select(self.ended_when_idle(idle_seconds))

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
                connection.execute(bound)

    def ended_when_idle(self, seconds: float) -> ColumnElement[bool]:
        # A process that was frozen just before its COMMIT held the row of its run, and who wanted
        # to take that over waited with all else that it looks after.
        bound = func.set_config(
            "idle_in_transaction_session_timeout", str(int(seconds * 1000)), true()
        )
        return bound.is_not(None)

    def lock_migrations(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))

    @contextmanager
    def only_scheduler(self, engine: Engine) -> Iterator[Callable[[], bool]]:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            if not connection.scalar(select(func.pg_try_advisory_lock(_SCHEDULING))):
                raise AlreadyScheduling(str(engine.url.database))

            def answers() -> bool:
                """The lock is the connection's, and goes with it."""
                try:
                    return bool(connection.scalar(select(1)))
                except DBAPIError:
                    return False

            try:
                yield answers
            finally:
                with suppress(SQLAlchemyError):  # else the pool would keep it, lock and all
                    connection.execute(select(func.pg_advisory_unlock(_SCHEDULING)))

    def longest_write(self, lease_seconds: float) -> float | None:
        return None


DIALECT = Postgresql()
