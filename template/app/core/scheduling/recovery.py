"""What a replica does about others' failures: takes over dead runs, makes up for missed fires."""

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Row

from app.core.database import AWAY
from app.core.scheduling.cursors import Cursors, Stretch
from app.core.scheduling.entry import Entry, Settlement
from app.core.scheduling.runner import Runner
from app.core.scheduling.triggers import Trigger, microseconds, moment
from app.core.tasks import unhurried

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3


class Recovery:
    """`find` gives the entry of a key, if this version knows it."""

    def __init__(
        self,
        runner: Runner,
        cursors: Cursors,
        lease: float,
        find: Callable[[str], Entry | None],
        settled: Callable[[Entry, Settlement], None],
    ) -> None:
        self._runner = runner
        self._ledger = runner.ledger
        self._cursors = cursors
        self._lease = int(lease * 1e6)
        self._find = find
        self._settled = settled

    async def take_over(self) -> None:
        """Run again, or give up, what dead replicas left behind."""
        await self._ledger.disown(self._runner.fences)
        for row in await self._ledger.expired():
            entry = self._find(row.job)
            if entry is None:
                if row.now - row.fire_time > self._ledger.window + self._lease:
                    await self._ledger.give_up(row.fence, "no version of the service knows it")
            else:
                await self._again(entry, row)

    async def _again(self, entry: Entry, row: Row[Any]) -> None:
        attempts = json.loads(row.attempts) if row.attempts else []
        given_back = attempts and attempts[-1]["attempt"] == row.attempt
        if row.sent is None and not given_back:  # it died
            attempts.append({"attempt": row.attempt, "outcome": "lost", "error": "its lease ended"})
            deaths = sum(past["outcome"] == "lost" for past in attempts)
            if entry.job.on_crash == "lost" or deaths >= _MOST_DEATHS:
                await self._ledger.give_up(row.fence, f"its process died, attempt {row.attempt}")
                _log.error("%s %s: lost", row.job, moment(row.fire_time).isoformat())
                return
        settled = functools.partial(self._settled, entry)
        if await self._runner.take_over(entry, row, attempts, settled):
            _log.warning("%s %s: taken over", row.job, moment(row.fire_time).isoformat())

    async def catch_up(
        self,
        cursors: Mapping[str, Row[Any]],
        own: Mapping[str, Trigger],
        effective: Mapping[str, Trigger],
    ) -> None:
        """Find what is owed, run the newest of it where the job asks for that, record the rest.

        Only where the schedule `own` to this version of the service is the cursor's.
        """
        async for key, trigger in unhurried(own.items()):
            cursor, entry = cursors.get(key), self._find(key)
            if cursor and entry and not cursor.paused and cursor.fingerprint == trigger.fingerprint:
                try:
                    await self._account(entry, effective[key], cursor)
                except AWAY:
                    raise
                except Exception:  # a trigger's own: it must not keep the others from theirs
                    _log.exception("%s: what it owes could not be told", key)

    async def _account(self, entry: Entry, trigger: Trigger, cursor: Row[Any]) -> None:
        old, until = cursor.accounted_until, cursor.now - self._lease
        newest = trigger.last(moment(until)) if until > old else None
        if newest is None or microseconds(newest) <= old:
            return
        recorded = await self._cursors.recorded(entry.key, old, until)
        seen = list(recorded)
        # A per-second job after a day down: 86,400 fires, not on the loop.
        missing = await asyncio.to_thread(
            lambda: [
                fire
                for fire in map(microseconds, trigger.between(moment(old), newest))
                if not any(first <= fire <= last for first, last in recorded)
            ]
        )
        run = microseconds(newest)
        wanted = missing and missing[-1] == run and entry.job.catch_up == "latest"
        if wanted and run > cursor.now - self._ledger.window:
            # The cursor stays before it: until it has a row, it is owed.
            missing, until = missing[:-1], run - 1
            seen = [row for row in recorded if row[0] <= until]
            if not self._runner.knows(entry.key, run):
                self._runner.submit(entry, run, lambda _: None, late=True)
        stretches = list(_stretches(missing, [last for _, last in recorded]))
        if await self._cursors.account(entry.key, old, until, stretches, seen) and missing:
            _log.error("%s: %d fires were missed", entry.key, len(missing))


def _stretches(missing: Iterable[int], recorded: Iterable[int]) -> Iterator[Stretch]:
    """Group missed fires that have no recorded one between them."""
    borders, current = sorted(recorded), None
    for fire in missing:
        if current and not any(current.last < border < fire for border in borders):
            current = Stretch(current.first, fire, current.fires + 1)
            continue
        if current:
            yield current
        current = Stretch(fire, fire, 1)
    if current:
        yield current
