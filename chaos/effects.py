"""The effects table: what the jobs did, in their own words. The oracle reads nothing else."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Integer,
    MetaData,
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


class Effects:
    def __init__(self, url: str) -> None:
        given = make_url(url)
        if given.drivername == "postgresql":
            given = given.set(drivername="postgresql+psycopg")
        self._engine: Engine = create_engine(given, poolclass=NullPool)

    def create(self) -> None:
        _metadata.create_all(self._engine)

    def read(self) -> list[Note]:
        """In the order in which they were written."""
        columns = [effects.c[name] for name in Note._fields]
        with self._engine.connect() as connection:
            rows = connection.execute(select(*columns).order_by(effects.c.id)).all()
        return [
            Note(what, name, fire_time / 1e6, attempt, replica, at / 1e6)
            for what, name, fire_time, attempt, replica, at in rows
        ]

    def last(self, what: str) -> Note | None:
        """The newest of its kind; None also while the database does not answer."""
        try:
            found = [note for note in self.read() if note.what == what]
        except OperationalError:
            return None
        return found[-1] if found else None
