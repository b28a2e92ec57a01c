"""The fault plan: what is done to whom and when, drawn from a seed."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from sqlalchemy import make_url

from chaos.effects import Effects
from chaos.members import Member, Replica
from chaos.oracle import Fault, Story
from chaos.pairs import Pair
from chaos.servers import Postgresql, Valkey
from chaos.timeline import Timeline
from chaos.victims import DEADLY, Victims

_WEIGHTS = {
    "kill": 4,
    "kill all": 1,
    "freeze": 4,
    "cut off": 2,
    "stop": 2,
    "end sessions": 2,
    "crash database": 1,
    "freeze database": 1,
    "restart redis": 1,
    "freeze redis": 1,
    "hold database": 2,
}
_PAUSE = (0.8, 3.0)
_QUIET = 3.0
"""Seconds without a new fault at the end, so that the last ones are judged whole."""

_LONGEST_START = 120.0

_MOST_DEATHS = 3
"""After so many a fire is given up as `lost`, by design: its job may be what kills."""

_Done = tuple[str, float]
"""To whom, and when."""


class Plan:
    """Does faults, and undoes them, until the end of the story."""

    def __init__(
        self,
        pair: Pair,
        members: Sequence[Member],
        effects: Effects,
        url: str,
        postgresql: Postgresql | None,
        valkey: Valkey | None,
        seed: int,
    ) -> None:
        self.story = Story()
        self._pair = pair
        self._file = make_url(url).database or ""
        self._postgresql = postgresql
        self._valkey = valkey
        self._random = random.Random(seed)
        self._away: set[str] = set()
        self._timeline = Timeline(self._random)
        self._victims = Victims(members, effects, self._away, self._random)
        self._kinds: dict[str, Callable[[], _Done | None]] = {
            "kill": self._kill,
            "kill all": self._kill_all,
            "freeze": self._freeze,
            "cut off": self._cut_off,
            "stop": self._stop,
            "end sessions": self._end_sessions,
            "crash database": self._crash_database,
            "freeze database": self._freeze_database,
            "restart redis": self._restart_redis,
            "freeze redis": self._freeze_redis,
            "hold database": self._hold_database,
        }

    def run(self, seconds: float) -> Story:
        story = self.story
        story.begin = time.time() // 5 * 5 + 5
        story.end = story.begin + seconds
        self._timeline.at(story.begin, self._next_fault)
        if not self._pair.guide:
            self._timeline.at(story.begin, self._next_reminder)
        self._timeline.run()
        time.sleep(max(0.0, story.end - time.time()))
        return story

    def _next_fault(self) -> None:
        """One that can be done now.

        It leaves one process of each role alone, and deals no fire its last death.
        """
        if time.time() > self.story.end - _QUIET:
            return
        spared = self._spared()
        kinds = [kind for kind in self._pair.faults if kind not in spared]
        while kinds:
            kind = self._random.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
            if (victim := self._kinds[kind]()) is not None:
                self.story.faults.append(Fault(kind, *victim))
                break
            kinds.remove(kind)
        self._timeline.after(*_PAUSE, self._next_fault)

    def _spared(self) -> set[str]:
        back = time.time() if self._away else max((up for _, up in self.story.outages), default=0)
        last = self._victims.deaths(self.story, back) >= _MOST_DEATHS - 1
        return DEADLY if last and not self._pair.control else set()

    def _next_reminder(self) -> None:
        if time.time() > self.story.end - _QUIET:
            return
        replicas = [m for m in self._victims.members if isinstance(m, Replica) and m.up]
        if replicas:
            name = f"reminder-{len(self.story.asked)}"
            due = time.time() + self._random.uniform(0.5, 3)
            self.story.asked.add(name)
            if self._random.choice(replicas).ask("POST", f"/reminders/{name}?at={due:.3f}"):
                self.story.promised.add(name)
        self._timeline.after(2, 4, self._next_reminder)

    def _kill(self) -> _Done | None:
        if (member := self._victims.choose()) is None:
            return None
        done = member.incarnation, time.time()
        member.kill()
        self._timeline.after(0, 3, member.start)
        return done

    def _kill_all(self) -> _Done | None:
        """Everybody at once: who comes back finds what was due meanwhile."""
        if self._away or not (up := [member for member in self._victims.members if member.up]):
            return None
        began = time.time()
        for member in up:
            member.kill()
            self._timeline.after(0, 3, member.start)
        self._away.add("everybody")
        self._timeline.after(0.1, 0.1, lambda: self._somebody_is_back(began))
        return "everybody", time.time()

    def _somebody_is_back(self, began: float) -> None:
        """Who may claim: a frozen one may have come back before those that were killed."""
        if any(m.up for m in self._victims.members if isinstance(m, Replica)):
            self._away.discard("everybody")
            self.story.absences.append((began, time.time()))
            return
        assert time.time() < began + _LONGEST_START, "nobody came back: the services' logs say why"
        self._timeline.after(0.1, 0.1, lambda: self._somebody_is_back(began))

    def _stop(self) -> _Done | None:
        if (member := self._victims.choose()) is None:
            return None
        member.terminate()
        self._timeline.after(0, 3, lambda: self._start_again(member))
        return member.incarnation, time.time()

    def _start_again(self, member: Member) -> None:
        if member.running:
            self._timeline.after(0.2, 0.2, lambda: self._start_again(member))
        else:
            member.start()

    def _freeze(self) -> _Done | None:
        if (member := self._victims.choose()) is None:
            return None
        began = time.time()
        member.freeze()
        blocks = self._pair.on_sqlite and self._is_held()

        def thaw() -> None:
            member.thaw()
            if blocks:  # it was frozen while it wrote, and nobody else could
                self.story.outages.append((began, time.time()))

        self._timeline.after(1, 6, thaw)
        return member.incarnation, began

    def _cut_off(self) -> _Done | None:
        if (member := self._victims.choose()) is None:
            return None
        member.cut_off()
        self._timeline.after(1, 6, member.reconnect)
        return member.incarnation, time.time()

    def _end_sessions(self) -> _Done | None:
        if self._postgresql is None or "database" in self._away:
            return None
        with suppress(psycopg.OperationalError):
            self._postgresql.end_sessions()
        return "database", time.time()

    def _crash_database(self) -> _Done | None:
        return self._take_away("database", self._postgresql, "crash", "start", (0.2, 3), True)

    def _freeze_database(self) -> _Done | None:
        return self._take_away("database", self._postgresql, "freeze", "thaw", (1, 4), True)

    def _restart_redis(self) -> _Done | None:
        decides = self._pair.claims_in_redis
        return self._take_away("redis", self._valkey, "kill", "start", (0, 2), decides)

    def _freeze_redis(self) -> _Done | None:
        decides = self._pair.claims_in_redis
        return self._take_away("redis", self._valkey, "freeze", "thaw", (1, 4), decides)

    def _take_away(
        self,
        name: str,
        server: Postgresql | Valkey | None,
        do: str,
        undo: str,
        seconds: tuple[float, float],
        decides: bool,
    ) -> _Done | None:
        """One store at a time; `decides`: nothing is claimed without it."""
        if server is None or self._away:
            return None
        began = time.time()
        getattr(server, do)()
        self._away.add(name)

        def give_back() -> None:
            getattr(server, undo)()
            self._away.discard(name)
            noted = self.story.outages if decides else self.story.silences
            noted.append((began, time.time()))

        self._timeline.after(*seconds, give_back)
        return name, began

    def _hold_database(self) -> _Done | None:
        """Somebody else writes, and takes his time."""
        if self._away:
            return None
        holder = sqlite3.connect(self._file, timeout=2, isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            holder.close()
            return None
        self._away.add("database")
        began = time.time()

        def release() -> None:
            holder.close()
            self._away.discard("database")
            self.story.outages.append((began, time.time()))

        self._timeline.after(0.5, 4, release)
        return "database", began

    def _is_held(self) -> bool:
        with sqlite3.connect(self._file, timeout=0.3, isolation_level=None) as probe:
            try:
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return "database" not in self._away
        return False
