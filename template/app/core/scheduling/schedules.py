"""The cursors, read once a second: the schedules that the jobs of this version go by."""

import json
import logging
from collections.abc import Callable, Container, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row

from app.core.scheduling.cursors import Cursors
from app.core.scheduling.translation import trigger_from_json
from app.core.scheduling.triggers import Trigger, moment
from app.core.tasks import unhurried

_log = logging.getLogger(__name__)


class Reading(NamedTuple):
    rows: Mapping[str, Row[Any]]
    """Every cursor, by its key."""
    effective: Mapping[str, Trigger]
    """What each job goes by: its own trigger, or the one that it was given for all replicas."""


class Schedules:
    """What the cursors say of this version's jobs; what it makes nothing of is left alone."""

    def __init__(
        self,
        cursors: Cursors,
        clock: Callable[[], datetime],
        hear: Callable[[datetime, datetime], None],
    ) -> None:
        self._cursors = cursors
        self._clock = clock
        self._hear = hear
        self._registered: dict[str, str] = {}
        self.unknown: frozenset[str] = frozenset()
        """Cursors of jobs, or with triggers, that this version of the service does not know."""

    async def read(
        self,
        recurring: Mapping[str, Trigger],
        others: Container[str],
        gone: set[str],
        certain: Mapping[str, Trigger],
    ) -> Reading:
        """Begin the cursors of new schedules, forget those that are `gone`; read all.

        `others`: jobs that need none just now. `certain`: those of `recurring` that are there.
        """
        await self._register(certain)
        rows = await self._all()
        for key in rows.keys() & gone:  # begun by whoever had not read that yet, us too
            await self._cursors.forget(key)
            del rows[key]
        gone.clear()
        for key in self._registered.keys() - rows.keys():  # somebody deleted it: begin it anew
            del self._registered[key]
        ended = [row for row in rows.values() if row.paused_at is not None and not row.paused]
        for row in ended:  # a pause that has ended by itself: its time is not owed
            await self._cursors.resume(row.job, row)
        if ended:
            rows = await self._all()
        effective, unknown = dict[str, Trigger](), set[str]()
        async for key, row in unhurried(rows.items()):
            own = recurring.get(key)
            try:
                given = trigger_from_json(json.loads(row.trigger)) if row.trigger else own
            except Exception as error:  # of a version to come
                self._leave(key, f"its schedule: {error}")
                unknown.add(key)
                continue
            if own is not None and given is not None:
                effective[key] = given
            elif key not in others:
                self._leave(key, "no job of this version")
                unknown.add(key)
        self.unknown = frozenset(unknown)
        return Reading(rows, effective)

    async def _all(self) -> dict[str, Row[Any]]:
        asked, rows = self._clock(), await self._cursors.all()
        if rows:
            self._hear(asked, moment(next(iter(rows.values())).now))
        return rows

    async def _register(self, recurring: Mapping[str, Trigger]) -> None:
        """Once for each schedule: in a rolling deploy the newer version's word stands."""
        now = {key: trigger.fingerprint for key, trigger in recurring.items()}
        if new := dict(now.items() - self._registered.items()):
            await self._cursors.register(new)
        self._registered = now

    def _leave(self, key: str, why: str) -> None:
        if key not in self.unknown:
            _log.warning("the cursor of %r is left alone: %s", key, why)
