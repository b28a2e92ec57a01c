"""The jobs added at run time, as this replica's memory holds them."""

import logging
from collections import deque
from collections.abc import Callable

from apscheduler.job import Job as ScheduledJob

from app.core.scheduling.apscheduler_ import TypedMemoryStore
from app.core.scheduling.declaration import find
from app.core.scheduling.entry import Entry
from app.core.scheduling.translation import trigger_from_json
from app.core.scheduling.triggers import Trigger
from app.core.stores import Definition, DefinitionStore
from app.core.tasks import unhurried

_log = logging.getLogger(__name__)
AHEAD = 600
"""Seconds: one-off jobs due later than this from now cost no memory yet."""
_STEP = 60_000_000
_FORGETS_AFTER = 5
"""Minutes without a look at the store after which this replica reads all of it again."""


class MirrorStore(TypedMemoryStore):
    """APScheduler's job store for definitions: a pass touches this memory, never the store."""

    def __init__(
        self,
        definitions: DefinitionStore,
        schedule: Callable[[Definition, Trigger], ScheduledJob],
        default_executor: str,
    ) -> None:
        self.base_init()
        self.definitions = definitions
        self.held: dict[str, Definition] = {}
        self.entries: dict[str, Entry] = {}
        self.unreadable: set[str] = set()
        self.gone: set[str] = set()
        """Claim keys that need no cursor any more; whoever has forgotten those clears it."""
        self._lapsed: set[str] = set()
        self._removed: dict[str, int] = {}
        self._schedule = schedule
        self._default_executor = default_executor
        self._version = 0
        self._epoch = ""
        self._horizon = 0
        self._read_at = 0
        self._versions: deque[int] = deque(maxlen=2 * _FORGETS_AFTER)

    async def refresh(self, now: int) -> bool:
        """Read what changed since the last time; True if anything did."""
        # Move the horizon by the minute: most polls then read one number and nothing else.
        horizon = max(self._horizon, (now // _STEP + 1) * _STEP + AHEAD * 1_000_000)
        if now - self._read_at > _FORGETS_AFTER * _STEP:  # what was removed meanwhile is not told
            self._lapsed |= self._recurring_keys()
            self._start_over()
        changes = await self.definitions.changes(self._version, self._horizon, horizon)
        if changes.epoch != self._epoch or changes.version < self._version:
            if self._version:
                _log.warning(
                    "the job store was restarted, or has lost what it had: its jobs are those "
                    "that it has now"
                )
            self._epoch, self._read_at = changes.epoch, now
            self._lapsed.clear()  # it may get them back
            self._start_over()
            return await self.refresh(now)
        moved, self._version = horizon > self._horizon, changes.version
        self._horizon, self._read_at = horizon, now
        async for definition in unhurried(changes.definitions):
            self.apply(definition)
        for id in [id for id, version in self._removed.items() if version <= changes.version]:
            del self._removed[id]
        for id in set(changes.unreadable) - self.unreadable:
            self.drop(id)  # what it was before is not what it is to be
            self._cannot_read(id, "it is not JSON of a definition")
        if self._lapsed:
            lapsed = self._lapsed - self._recurring_keys()
            self.gone |= {key for key in lapsed if key.rpartition(":")[0] not in self.unreadable}
            self._lapsed.clear()
        if moved:
            self._versions.append(changes.version)
            if len(self._versions) == self._versions.maxlen:
                await self.definitions.purge(self._versions[0])
        return bool(changes.definitions)

    def _start_over(self) -> None:
        for id in list(self.held):
            self.drop(id)
        self._removed.clear()
        self._version = self._horizon = 0

    def _recurring_keys(self) -> set[str]:
        return {held.key for held in self.held.values() if held.fire_time is None}

    def apply(self, definition: Definition) -> None:
        """Hold, change or drop one job."""
        held = self.held.get(definition.id)
        known = held.version if held else self._removed.get(definition.id, 0)
        if known >= definition.version:
            return
        if held:
            self.drop(definition.id)
            if held.fire_time is None:
                self.gone.add(held.key)
        if not definition.removed and definition.fire_time is None:
            self.gone.discard(definition.key)
        if definition.removed:  # a refresh under way may have read it before
            self._removed[definition.id] = definition.version
        far = definition.fire_time is not None and definition.fire_time > self._horizon > 0
        if definition.removed or far:
            return
        try:
            declared = find(definition.job)
            trigger = trigger_from_json(dict(definition.trigger))
            scheduled = self._schedule(definition, trigger)
        except Exception as error:  # a store holds anything; what follows it must be read
            self._cannot_read(definition.id, str(error))
            return
        self.unreadable.discard(definition.id)
        self.held[definition.id] = definition
        self.entries[definition.key] = Entry(
            key=definition.key,
            job=declared,
            args=(),
            kwargs=definition.kwargs,
            executor=declared.executor or self._default_executor,
            origin="store",
            once=definition.fire_time is not None,
        )
        self.insert(scheduled)

    def recurring(self) -> dict[str, Trigger]:
        """The triggers of what is held and not paused, one-off jobs apart, by claim key."""
        return {
            definition.key: job.trigger.trigger
            for definition in self.held.values()
            if definition.fire_time is None and not definition.paused
            if (job := self.find(definition.id)) is not None
        }

    def by_key(self, key: str) -> Definition | None:
        """The definition that is claimed by this key, if it is held here."""
        held = self.held.get(key.rpartition(":")[0])
        return held if held and held.key == key else None

    def drop(self, id: str) -> None:
        definition = self.held.pop(id, None)
        if definition:
            self.entries.pop(definition.key, None)
            self.remove(id)

    def shutdown(self) -> None:
        self.clear()

    def _cannot_read(self, id: str, why: str) -> None:
        self.unreadable.add(id)
        _log.error("job %r in the job store is left alone: %s", id, why)
