"""What the rest of the service asks of a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import SecretStr
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Select,
    Subquery,
    Table,
    make_url,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:  # each is a third of SQLAlchemy's weight, and one of them is enough
    from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
    from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

_NO_URL = (ArgumentError, ValueError)


class AlreadyScheduling(RuntimeError):
    """Another process schedules this service's jobs, and the chosen lock allows one only."""


def parsed(url: SecretStr) -> SecretStr:
    """The URL, if it is one. Raises `ValueError`, without a word of it."""
    try:
        make_url(url.get_secret_value())
    except _NO_URL:
        raise ValueError(
            "is not a URL: a password with @ : / or % in it must be percent-encoded; for example "
            "DATABASE_URL=postgresql://user:p%40ssword@host:5432/name"
        ) from None
    return url


class Dialect(Protocol):
    """One database: its drivers, its clock, and the few statements that are its own."""

    migrates_on_start: bool
    async_driver: str
    sync_driver: str
    reading: Mapping[str, Any]
    """Execution options for statements that read, each for itself: one round trip."""
    alone: Mapping[str, Any]
    """Execution options for a statement that is a transaction of its own."""

    def now(self) -> ColumnElement[int]:
        """The store's own clock, in UTC microseconds; moves inside a transaction too."""

    def next_fence(self, position: ColumnElement[int] | int = 0) -> ColumnElement[int]:
        """A number greater than every fence before; `position` tells rows of a batch apart."""

    def raise_fences(self, connection: Connection) -> None:
        """Start above every fence that another lock backend gave before this one was chosen."""

    def rows(self, name: str, columns: Mapping[str, TypeEngine[Any]]) -> Subquery:
        """A JSON array of objects with these keys, given as the parameter `name`, as a table."""

    def only(
        self, table: Table, name: str, matches: Callable[[FromClause], ColumnElement[bool]]
    ) -> tuple[FromClause, ColumnElement[bool]]:
        """The one row of the table, if any, that matches; and what to join it on."""

    def asking(
        self, looking: Select[Any], winning: Callable[[FromClause], ReturningInsert[Any]]
    ) -> Select[Any]:
        """What is looked for, and the fence (`won`) and id (`won_id`) of what was won with it."""

    def insert(self, table: TableClause | type[Any]) -> PostgresqlInsert | SqliteInsert:
        """An INSERT that knows ON CONFLICT."""

    def options(self, url: URL, timeout: float) -> dict[str, Any]:
        """Arguments of `create_engine`; a statement takes at most `timeout` seconds."""

    def prepare(self, engine: Engine, idle_seconds: float | None = None) -> None:
        """Set up each new connection of an engine.

        Its transactions of several statements may stand still for so long; None is for ever.
        """

    def ended_when_idle(self, seconds: float) -> ColumnElement[bool]:
        """True, and from then on the transaction may stand still for no longer than that."""

    def lock_migrations(self, connection: Connection) -> None:
        """Let one replica at a time migrate, until the transaction ends."""

    def only_scheduler(self, engine: Engine) -> AbstractContextManager[Callable[[], bool]]:
        """Hold for as long as this process schedules. Raises `AlreadyScheduling`.

        Gives a function that says whether it is still the only one; it may block.
        """

    def longest_write(self, lease_seconds: float) -> float | None:
        """How long a transaction may keep others from writing, in seconds."""
