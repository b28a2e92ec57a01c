"""What a replica does about others' failures: takes over dead runs, makes up for missed fires."""

import asyncio
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from app.core.database import AWAY
from app.core.logging import in_words
from app.core.scheduling.cursors import Cursors, Stretch
from app.core.scheduling.entry import Entry, Settlement
from app.core.scheduling.runner import Runner
from app.core.scheduling.translation import schedule_of
from app.core.scheduling.triggers import Trigger, microseconds, moment
from app.core.tasks import end_between, unhurried

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3
_ABANDONED = 3
"""Leases after which the version that a cursor belongs to must have moved it."""


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
        self._watching: asyncio.Task[None] | None = None
        self._one_look = asyncio.Lock()
        self._accounting: asyncio.Task[None] | None = None
        self._one_account = asyncio.Lock()
        self._accounted = float("-inf")
        self._left = set[int]()
        self._unclear = set[str]()

    def start(self, every: float) -> None:
        """Take over each so many seconds, apart from all that may take longer."""
        self._watching = asyncio.create_task(self._watch(every), name="take-over")

    async def stop(self) -> None:
        looking = end_between(self._one_look, self._watching)
        await asyncio.gather(looking, end_between(self._one_account, self._accounting))

    async def _watch(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                async with self._one_look:
                    await self.take_over()
            except AWAY:
                pass  # the poll says so
            except Exception:
                _log.exception("what dead replicas left behind is looked at again")

    def account(
        self,
        cursors: Mapping[str, Row[Any]],
        own: Mapping[str, Trigger],
        effective: Mapping[str, Trigger],
    ) -> bool:
        """Catch up, each third of a lease, in a task of its own: it may take longer than a poll."""
        busy = self._accounting is not None and not self._accounting.done()
        if busy or time.monotonic() - self._accounted < self._lease / 3e6:
            return False
        self._accounted = time.monotonic()
        catching_up = self._catch_up_quietly(cursors, own, effective)
        self._accounting = asyncio.create_task(catching_up, name="catch-up")
        return True

    async def _catch_up_quietly(self, *args: Any) -> None:
        try:
            await self.catch_up(*args)
        except Exception as error:
            _log.warning("what is owed is looked at again: %s", in_words(error))

    async def take_over(self) -> None:
        """Run again, or give up, what dead replicas left behind."""
        await self._ledger.disown(self._runner.fences)
        expired = await self._ledger.expired()
        for row in expired:
            if row.fence in self._runner.fences:  # a heartbeat may yet revive it
                continue
            try:
                await self._take_over(row)
            except AWAY:
                raise
            except Exception:  # a row of another version's: it must not keep the others
                if row.fence not in self._left:
                    _log.exception("%s: what its process left behind is left alone", row.job)
                self._left.add(row.fence)
        self._left &= {row.fence for row in expired}

    async def _take_over(self, row: Row[Any]) -> None:
        entry = self._find(row.job)
        if entry is not None:
            await self._again(entry, row)
            return
        last = max(row.fire_time, row.claimed_at or 0, row.lease_until or 0)
        if row.now - last > self._ledger.window + self._lease:
            await self._ledger.give_up(row.fence, "no version of the service knows it")

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

        Only where the schedule `own` to this version of the service is the cursor's. Another
        version's cursor that nobody moves any more becomes this one's. While a job is paused
        nothing runs: what was owed until then is recorded.
        """
        asked = self._runner.late()
        async for key, cursor in unhurried(cursors.items()):
            entry = self._find(key)
            if entry is None:
                continue
            waits = cursor.paused and entry.origin == "store"  # and has no effective schedule
            if not waits and key not in effective:
                continue
            try:
                async with self._one_account:
                    if cursor.paused:
                        await self._account(entry, schedule_of(cursor), cursor, asked.get(key))
                    elif cursor.fingerprint == own[key].fingerprint:
                        await self._account(entry, effective[key], cursor, asked.get(key))
                    elif self._is_abandoned(cursor):
                        await self._cursors.register({key: own[key].fingerprint})
                self._unclear.discard(key)
            except AWAY:
                raise
            except Exception:  # a trigger's own: it must not keep the others from theirs
                if key not in self._unclear:
                    _log.exception("%s: what it owes cannot be told", key)
                self._unclear.add(key)

    def _is_abandoned(self, cursor: Row[Any]) -> bool:
        """Has nobody accounted for what has long been due by the schedule that it is of?"""
        due = schedule_of(cursor).last(moment(cursor.now - _ABANDONED * self._lease))
        return due is not None and microseconds(due) > cursor.accounted_until

    async def _account(
        self, entry: Entry, trigger: Trigger, cursor: Row[Any], asked: int | None
    ) -> None:
        # Later than claims end by as much as one may take: else a fire could be both.
        old, until = cursor.accounted_until, cursor.now - self._lease - self._lease // 3
        if cursor.paused:
            until = min(until, cursor.paused_at)
        if asked is not None:  # it may yet run
            until = min(until, asked - 1)
        newest = trigger.last(moment(until)) if until > old else None
        if newest is None or microseconds(newest) <= old:
            return
        recorded = await self._cursors.recorded(entry.key, old, until)
        run = microseconds(newest)
        recent = run > cursor.now - self._ledger.window
        wanted = recent and entry.job.catch_up == "latest" and not cursor.paused
        if wanted and not any(first <= run <= last for first, last in recorded):
            # The cursor stays before it: until it has a row, it is owed.
            until = run - 1
            recorded = [row for row in recorded if row[0] <= until]
            if not self._runner.knows(entry.key, run):
                self._runner.submit(entry, run, lambda _: None, late=True)
        missed = await asyncio.to_thread(_missed, trigger, old, until, recorded)
        if await self._cursors.account(entry.key, old, until, missed, recorded) and missed:
            _log.error("%s: %d fires were missed", entry.key, sum(row.fires for row in missed))


def _missed(
    trigger: Trigger, after: int, until: int, recorded: Sequence[tuple[int, int]]
) -> list[Stretch]:
    """The fires between the two that have no record, those in one stretch that come in a row."""
    missed: list[Stretch] = []
    for first, last in [*recorded, (until + 1, until + 1)]:
        since, before = moment(after), moment(min(first - 1, until))
        begin, end = trigger.next(since), trigger.last(before)
        if begin and end and begin <= end:
            fires = trigger.count(since, before)
            missed.append(Stretch(microseconds(begin), microseconds(end), fires))
        after = max(after, last)
    return missed
