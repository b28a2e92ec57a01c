"""Jobs that are added while the service runs are kept in the database, for all replicas."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database import Database
from app.core.schema import job_counters, job_definitions
from app.core.settings import ServiceSettings
from app.core.stores import (
    Definition,
    DefinitionChanged,
    DefinitionStore,
    UnreadableDefinition,
)
from app.core.stores.protocol import Changes
from app.core.tasks import unhurried

_row = job_definitions.c
_PAGE = 500
_UNREADABLE = (ValueError, RecursionError)


class StoreSettings(ServiceSettings):
    """It is kept where DATABASE_URL says."""


def definitions(settings: StoreSettings, database: Database) -> DefinitionStore | None:
    return _DatabaseStore(database)


class _DatabaseStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def changes(self, version: int, seen: int, horizon: int) -> Changes:
        counter = select(job_counters.c.value).where(job_counters.c.name == "definitions")
        near = or_(_row.fire_time.is_(None), _row.fire_time <= horizon)
        coming = (_row.fire_time > seen) & (_row.fire_time <= horizon)
        wanted = or_(_row.version > version, coming) if version else near & ~_row.removed
        async with self._database.reading() as connection:
            # The counter first: what is committed in between is simply read again.
            newest = (await connection.execute(counter)).scalar_one()
            if newest == version and seen == horizon:
                return Changes(version, (), ())
            rows = (await connection.execute(select(job_definitions).where(wanted))).all()
        read = [(row.id, _read(row)) async for row in unhurried(rows)]
        good = [definition for _, definition in read if definition]
        return Changes(newest, good, [id for id, definition in read if definition is None])

    async def add(self, definition: Definition, *, replace: bool) -> Definition:
        async with self._database.writing() as connection:
            version = await _next_version(connection)
            new = _with(definition, generation=version, version=version)
            insert = self._database.dialect.insert(job_definitions).values(**_write(new))
            values = _write(new)
            free = None if replace else _row.removed.is_(True)
            statement = insert.on_conflict_do_update(
                index_elements=["id"], set_=values, where=free
            ).returning(_row.id)
            if (await connection.execute(statement)).first() is None:
                raise DefinitionChanged(f"a job {definition.id!r} exists; replace_existing=True")
        return new

    async def change(self, definition: Definition) -> Definition:
        async with self._database.writing() as connection:
            new = _with(definition, version=await _next_version(connection))
            same = (_row.id == definition.id) & (_row.version == definition.version)
            statement = update(job_definitions).where(same).values(**_write(new))
            if (await connection.execute(statement)).rowcount != 1:
                raise DefinitionChanged(
                    f"job {definition.id!r} was changed elsewhere; read it again"
                )
        return new

    async def get(self, id: str) -> Definition | None:
        async with self._database.reading() as connection:
            statement = select(job_definitions).where(_row.id == id, _row.removed.is_(False))
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        if (definition := _read(row)) is None:
            raise UnreadableDefinition(id)
        return definition

    async def purge(self, version: int) -> None:
        gone = delete(job_definitions).where(_row.removed.is_(True), _row.version <= version)
        async with self._database.writing() as connection:
            await connection.execute(gone)

    async def all(self) -> AsyncIterator[Definition | str]:
        last = ""
        statement = select(job_definitions).where(_row.removed.is_(False)).order_by(_row.id)
        while True:
            async with self._database.reading() as connection:
                page = statement.where(_row.id > last).limit(_PAGE)
                rows = (await connection.execute(page)).all()
            for row in rows:
                yield _read(row) or row.id
            if len(rows) < _PAGE:
                return
            last = rows[-1].id

    async def close(self) -> None:
        """The database is closed by itself."""


async def _next_version(connection: AsyncConnection) -> int:
    """One writer after the other: whoever reads a version has all the smaller ones."""
    counter = update(job_counters).where(job_counters.c.name == "definitions")
    counter = counter.values(value=job_counters.c.value + 1)
    return int((await connection.execute(counter.returning(job_counters.c.value))).scalar_one())


def _with(definition: Definition, **changes: Any) -> Definition:
    return replace(definition, **changes)


def _write(definition: Definition) -> dict[str, Any]:
    return vars(definition) | {
        "kwargs": json.dumps(definition.kwargs),
        "trigger": json.dumps(definition.trigger),
    }


def _read(row: Row[Any]) -> Definition | None:
    try:
        kwargs, trigger = json.loads(row.kwargs), json.loads(row.trigger)
    except _UNREADABLE:
        return None
    if not isinstance(kwargs, dict) or not isinstance(trigger, dict):
        return None
    return Definition(**row._asdict() | {"kwargs": kwargs, "trigger": trigger})
