"""Jobs added at run time, from one store to another: `make export-jobs`, `make import-jobs`.

The file has a line of JSON for each job. Whichever backends wrote it, any others read it.
"""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from app.core import wiring
from app.core.database import AWAY, Database
from app.core.migrate import pending
from app.core.scheduling.entry import check_key
from app.core.scheduling.translation import trigger_from_json
from app.core.scheduling.triggers import only_fire_time
from app.core.settings import InvalidSettings
from app.core.stores import (
    Definition,
    DefinitionChanged,
    DefinitionStore,
    UnreadableDefinition,
)
from app.settings import Settings

_FIELDS = {"id": str, "job": str, "kwargs": dict, "trigger": dict, "paused": bool}
"""What a line has. The rest follows from it, or is the store's: the job is new to it."""
_SAYS_SO_EVERY = 1_000


class Refused(Exception):
    """Why nothing, or not everything, was moved."""


@contextmanager
def new_file(file: Path) -> Iterator[TextIO]:
    """For an export; taken away again on an error. Raises `Refused` if it is there already."""
    try:
        # Arguments may be personal: for the owner's eyes.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Refused(f"FILE={file}: {error.strerror}; name one that can be written") from None
    try:
        with open(descriptor, "w", encoding="utf-8") as lines:
            yield lines
    except BaseException:
        file.unlink()
        raise


async def export_jobs(store: DefinitionStore, lines: TextIO) -> int:
    """Write all that the store has; how many. Raises `Refused` for what cannot be read."""
    unreadable, written = [], 0
    async for definition in store.all():
        if isinstance(definition, str):
            unreadable.append(definition)
            continue
        lines.write(json.dumps(_line(definition)) + "\n")
        written += 1
        _progress(written)
    if unreadable:
        raise Refused(
            f"this version cannot read {', '.join(map(repr, unreadable))} in the job store: "
            "export with the version that wrote it, or remove it there"
        )
    return written


def read_jobs(file: Path) -> Iterator[Definition]:
    """What an export wrote. Raises `Refused` at the first line that is nothing of that."""
    try:
        lines = file.open("rb")
    except OSError as error:
        raise Refused(f"FILE={file}: {error.strerror}; name what was exported") from None
    with lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _definition(json.loads(line))
            except (TypeError, ValueError, RecursionError) as error:
                raise Refused(f"{file}, line {number}: {error}; nothing was added") from None


async def import_jobs(store: DefinitionStore, definitions: Iterable[Definition]) -> tuple[int, int]:
    """Add them; how many are new, and how many were there already, just so.

    An id that is another job here is left as it is, and named by the `Refused` that is raised at
    the end.
    """
    added, there, others = 0, 0, []
    for definition in definitions:
        try:
            await store.add(definition, replace=False)
            added += 1
        except DefinitionChanged:
            try:
                held = await store.get(definition.id)
            except UnreadableDefinition:
                held = None
            if held is not None and _line(held) == _line(definition):
                there += 1
            else:
                others.append(definition.id)
        _progress(added + there + len(others))
    if others:
        raise Refused(
            f"{added} added; but {', '.join(map(repr, others))} is another job here. Remove it "
            "or its line, and import again: what is there already stays as it is"
        )
    return added, there


def _line(definition: Definition) -> dict[str, Any]:
    return {name: getattr(definition, name) for name in _FIELDS}


def _definition(line: Any) -> Definition:
    if not isinstance(line, dict) or set(line) != set(_FIELDS):
        raise ValueError(f"it is not an object with {', '.join(_FIELDS)}, and nothing else")
    for name, kind in _FIELDS.items():
        if not isinstance(line[name], kind):
            raise ValueError(f"{name}={line[name]!r} is not a {kind.__name__}")
    when = trigger_from_json(line["trigger"])
    definition = Definition(**line, fire_time=only_fire_time(when))
    check_key(definition.key)
    return definition


def _progress(done: int) -> None:
    if done % _SAYS_SO_EVERY == 0:
        print(f"{done} jobs ...", file=sys.stderr, flush=True)


@asynccontextmanager
async def _job_store(settings: Settings) -> AsyncIterator[DefinitionStore]:
    database = Database(settings, wiring.database.DIALECT)
    store = wiring.store.definitions(settings, database)
    assert store is not None  # a memory store comes without this module
    try:
        yield store
    finally:
        await store.close()
        await database.close()


async def _export(settings: Settings, file: Path, lines: TextIO) -> str:
    async with _job_store(settings) as store:
        return f"{await export_jobs(store, lines)} jobs written to {file}"


async def _import(settings: Settings, definitions: Iterable[Definition]) -> str:
    async with _job_store(settings) as store:
        added, there = await import_jobs(store, definitions)
    return f"{added} jobs added, {there} were there already"


def _check_schema(settings: Settings) -> None:
    engine = Database(settings, wiring.database.DIALECT).engine
    try:
        with engine.connect().execution_options(writes=False) as connection:
            if behind := pending(connection):
                raise Refused(f"the database is behind ({', '.join(behind)}): `make migrate` first")
    finally:
        engine.dispose()


def main(direction: str, name: str) -> None:
    """Ends the process with a message where it cannot be done."""
    file = Path(name)
    try:
        settings = Settings.load()
        _check_schema(settings)
        if direction == "export":
            with new_file(file) as lines:
                said = asyncio.run(_export(settings, file, lines))
        else:
            deque(read_jobs(file), maxlen=0)  # all of it can be read, before anything is added
            said = asyncio.run(_import(settings, read_jobs(file)))
    except (InvalidSettings, Refused) as error:
        sys.exit(str(error))
    except AWAY as error:
        sys.exit(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    print(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
