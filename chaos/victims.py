"""Whom a fault is to hit: in mid-run it hurts most, and somebody must be left."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from sqlalchemy.exc import OperationalError

from chaos.effects import Effects, Note
from chaos.members import Member
from chaos.oracle import Story, fires

_AIMED = 0.5
"""How often it is who is in the middle of a run."""

_LONGEST_AIM = 1.2

_UNSEEN, _FORGOTTEN = 10.0, 60.0
"""Seconds after which a fire will not begin any more; after which it will have no effect."""

DEADLY = {
    "kill",
    "kill all",
    "freeze",
    "cut off",
    "crash database",
    "freeze database",
    "restart redis",
    "freeze redis",
    "hold database",
}


class Victims:
    """`away` has what does not answer now, and may not even refuse."""

    def __init__(
        self,
        members: Sequence[Member],
        effects: Effects,
        away: Collection[str],
        random: random.Random,
    ) -> None:
        self.members = members
        self._away = away
        self._effects = effects
        self._random = random
        self._notes: list[Note] = []
        self._alive: set[str] = set()

    def choose(self) -> Member | None:
        """Somebody whose role another one fills."""
        aimed = self._who_begins() if self._random.random() < _AIMED else None
        up = [member for member in self.members if member.up]
        spare = [m for m in up if sum(other.role == m.role for other in up) > 1]
        busy = [member for member in spare if member.incarnation == aimed]
        return self._random.choice(busy or spare) if spare else None

    def _who_begins(self) -> str | None:
        """Who begins the next run; some moments later, before its effect or after."""
        before = None if "database" in self._away else self._effects.last_begun()
        deadline = time.monotonic() + _LONGEST_AIM
        while before and time.monotonic() < deadline:
            if (note := self._effects.last_begun()) and note != before:
                time.sleep(self._random.uniform(0, 0.25))
                return note.replica
            time.sleep(0.02)
        return None

    def deaths(self, story: Story, back: float) -> int:
        """How often the holder of one fire may have died that has no effect yet: the most of all.

        Who began before a store was `back` may have lost his lease.
        """
        if "database" not in self._away:  # else what was known before
            with suppress(OperationalError):
                self._notes = self._effects.read()
        self._alive = {member.incarnation for member in self.members if member.up}
        now = time.time()
        done = {(note.name, note.fire_time) for note in self._notes if note.what == "effect"}
        due = {fire for fire in fires(story) if now - _UNSEEN < fire[1] < now}
        begun = {(note.name, note.fire_time): note for note in self._notes if note.what == "began"}
        recent = {fire for fire, note in begun.items() if now - note.at < _FORGOTTEN}
        return max(
            (self._deaths(story, begun.get(f), f[1], back) for f in (due | recent) - done),
            default=0,
        )

    def _deaths(self, story: Story, last: Note | None, due: float, back: float) -> int:
        """Of the holders of a fire whose body was `last` seen to begin."""
        if last and last.replica in self._alive and last.at > back:
            return last.attempt - 1
        # Whoever has it now may die before its body has begun, and nobody would see it.
        since, seen = (last.at, last.attempt) if last else (due, 1)
        return seen - 1 + sum(fault.at >= since for fault in story.faults if fault.kind in DEADLY)
