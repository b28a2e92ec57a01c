"""Whom a fault is to hit: in mid-run it hurts most, and somebody must be left."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.exc import OperationalError

from chaos.effects import Effects, Note
from chaos.members import Member

_AIMED = 0.5
"""How often it is who is in the middle of a run."""

_LONGEST_AIM = 1.2


class Victims:
    def __init__(self, members: Sequence[Member], effects: Effects, random: random.Random) -> None:
        self.members = members
        self._effects = effects
        self._random = random
        self._unfinished: list[list[Note]] = []

    def choose(self) -> Member | None:
        """Somebody whose role another one fills."""
        aimed = self._who_begins() if self._random.random() < _AIMED else None
        up = [member for member in self.members if member.up]
        spare = [m for m in up if sum(other.role == m.role for other in up) > 1]
        busy = [member for member in spare if member.incarnation == aimed]
        return self._random.choice(busy or spare) if spare else None

    def _who_begins(self) -> str | None:
        """Who begins the next run; some moments later, before its effect or after."""
        before = self._effects.last_begun()
        deadline = time.monotonic() + _LONGEST_AIM
        while before and time.monotonic() < deadline:
            if (note := self._effects.last_begun()) and note != before:
                time.sleep(self._random.uniform(0, 0.25))
                return note.replica
            time.sleep(0.02)
        return None

    def deaths(self, since: float) -> int:
        """How often the holder of one fire has died that has no effect yet: the most of all.

        A store that was away may have cost a holder its lease who began before it was back.
        """
        with suppress(OperationalError):  # while the database is away, what was known before
            self._unfinished = self._effects.unfinished()
        alive = {member.incarnation for member in self.members if member.up}
        deaths = [
            len(held) - (held[-1].replica in alive and held[-1].at > since)
            for held in self._unfinished
        ]
        return max(deaths, default=0)
