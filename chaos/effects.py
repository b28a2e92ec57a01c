"""The effects table: what the jobs did, in their own words. The oracle reads nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    create_engine,
    make_url,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

_metadata = MetaData()
# No constraint: a second effect of one fire must be seen, not refused.
effects = Table(
    "chaos_effects",
    _metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("what", String(20), nullable=False),
    Column("name", String(100), nullable=False),
    Column("fire_time", BigInteger, nullable=False),
    Column("fence", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("replica", String(50), nullable=False),
    Column("at", BigInteger, nullable=False),
)


class Note(NamedTuple):
    """`what`: a body began, an effect was committed, or refused. Times in seconds."""

    what: str
    name: str
    fire_time: float
    attempt: int
    replica: str
    at: float


_columns = [effects.c[name] for name in Note._fields]


class Effects:
    def __init__(self, url: str) -> None:
        given = make_url(url)
        if given.drivername == "postgresql":
            given = given.set(drivername="postgresql+psycopg")
        self.engine: Engine = create_engine(given, poolclass=NullPool)

    def create(self) -> None:
        _metadata.create_all(self.engine)

    def read(self) -> list[Note]:
        """In the order in which they were written."""
        return self._notes(select(*_columns).order_by(effects.c.id))

    def last_begun(self) -> Note | None:
        """The body that began last. None also while the database does not answer."""
        began = select(*_columns).where(effects.c.what == "began")
        try:
            notes = self._notes(began.order_by(effects.c.id.desc()).limit(1))
        except OperationalError:
            return None
        return notes[0] if notes else None

    def _notes(self, statement: Select[Any]) -> list[Note]:
        with self.engine.connect() as connection:
            rows = connection.execute(statement).all()
        return [
            Note(what, name, fire_time / 1e6, attempt, replica, at / 1e6)
            for what, name, fire_time, attempt, replica, at in rows
        ]
