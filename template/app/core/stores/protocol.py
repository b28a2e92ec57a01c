"""What a shared store keeps of a job: its definition, as JSON, and nothing else."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class DefinitionChanged(RuntimeError):
    """Another replica changed or removed the job at the same time; nothing was written."""


class UnreadableDefinition(ValueError):
    """The store has an entry of this id, of which this version of the service makes nothing."""

    def __init__(self, id: str) -> None:
        super().__init__(f"the entry of {id!r} in the job store cannot be read by this version")


@dataclass(frozen=True)
class Definition:
    """A job added at run time. Its claim key is `id` and `generation`: an id used again is new."""

    id: str
    job: str
    kwargs: Mapping[str, Any]
    trigger: Mapping[str, Any]
    fire_time: int | None = None
    """Of a one-off job, in UTC microseconds."""
    paused: bool = False
    generation: int = 0
    version: int = 0
    removed: bool = False

    @property
    def key(self) -> str:
        return f"{self.id}:{self.generation}"


class Changes(NamedTuple):
    version: int
    definitions: Sequence[Definition]
    unreadable: Sequence[str]
    """Entries of which this version can make nothing: left alone, and shown. May be told again."""
    epoch: str = ""
    """Another one: the store may have lost what it had, and all is read again."""


class DefinitionStore(Protocol):
    """Definitions, shared by all replicas. Versions grow in the order of the commits.

    A store that is away raises one of `app.core.database.AWAY`: it is asked again.
    """

    async def changes(self, version: int, seen: int, horizon: int) -> Changes:
        """What changed after `version`, and one-off jobs due after `seen` and up to `horizon`.

        From version 0: everything but one-off jobs due later than `horizon`.
        """

    async def add(self, definition: Definition, *, replace: bool) -> Definition:
        """With a generation that this id never had, not even before it was removed.

        Raises `DefinitionChanged` if the id exists and is not to be replaced.
        """

    async def change(self, definition: Definition) -> Definition:
        """Write it if it still has the version given. Raises `DefinitionChanged`."""

    async def get(self, id: str) -> Definition | None:
        """None if there is none. Raises `UnreadableDefinition`."""

    async def purge(self, version: int) -> None:
        """Forget the definitions that were removed up to this version; at any time."""

    async def close(self) -> None: ...

    def all(self) -> AsyncIterator[Definition | str]:
        """Every definition, read in pages; of one that this version cannot read, its id."""
