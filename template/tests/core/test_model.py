"""Claims, heartbeats, ends and take-overs in any order, against a model of what they promise."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any, TypeVar

import pytest
from hypothesis import settings as effort
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Row, delete, select

from app.core import wiring
from app.core.database import Database
from app.core.scheduling.answers import Fire, Outcome, Refused, Taken, Won
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.statements import completion
from app.core.schema import job_runs
from app.settings import Settings
from tests.core.fixtures import time_goes_by
from tests.core.waiting import runs

LEASE = 600.0
VOID = -1
"""The fence of a run that nobody has: a new one in the ledger, that nobody was told."""
NAMES = ("a", "b", "c")
REPLICAS = st.sampled_from(NAMES)
# Runs of the first job may not overlap, those of the second may.
FIRES = st.tuples(st.sampled_from(("alone", "beside")), st.integers(0, 2))
T = TypeVar("T")
# It takes whatever makes a machine, and says that it takes a class.
run_model: Callable[..., None] = run_state_machine_as_test
Key = tuple[str, int]
_numbers = count(1)


@dataclass
class Known:
    """What should be true of a fire that has a row."""

    fence: int | None
    ends: float | None
    """Its lease; None when the function has ended."""
    attempt: int
    outcome: Outcome | None = None
    seen: int = field(default=0, repr=False)


class LedgerModel(RuleBasedStateMachine):
    """Replicas that never die: each goes on as if it still had every run that it ever won."""

    def __init__(self, settings: Settings, ledgers: dict[str, Ledger], loop: asyncio.Runner):
        super().__init__()
        self.settings = settings
        self.ledgers = ledgers
        self.database = ledgers["a"].database
        self.lease = ledgers["a"].lease or inf
        self.loop = loop
        self.name = f"model{next(_numbers)}-"
        self.base = self.do(self.store_time())
        self.clock = 0.0
        self.newest = 0
        self.fires: dict[Key, Known] = {}
        self.won: list[tuple[str, Key, int]] = []

    @rule(replica=REPLICAS, fire=FIRES)
    def claim(self, replica: str, fire: Key) -> None:
        """The first to ask wins, unless a run of the job is alive, or its own."""
        asked = Fire(self.name + fire[0], self.base + fire[1], self.active_key(fire))
        running = [fence for name, _, fence in self.won if name == replica]
        self.ledgers[replica].running = running
        (answer,) = self.do(self.ledgers[replica].claim([asked]))
        if known := self.fires.get(fire):
            assert isinstance(answer, Taken)
            assert answer.settled <= (known.outcome is not None)
            # Not everybody hears of it before the function has ended, too.
            assert answer.settled or known.outcome is None or known.ends is not None
            return
        holder = self.holder(fire)
        if holder and (self.is_alive(holder) or holder.fence in running):
            assert answer == Refused("skipped")
            self.fires[fire] = Known(None, None, 0, "skipped")
            return
        if holder:
            holder.fence = VOID
            holder.ends = self.clock if holder.outcome is None else None
        assert isinstance(answer, Won)
        self.grant(replica, fire, answer)

    @rule(replica=REPLICAS)
    def beat(self, replica: str) -> None:
        """It keeps the runs that nobody else has, even when their leases had ended.

        If a run had an outcome by then, somebody may have seen that it is over.
        """
        asked = {fence: self.fires[fire] for name, fire, fence in self.won if name == replica}
        mine = {f: of for f, of in asked.items() if of.fence == f and of.ends is not None}
        over = {f for f, of in mine.items() if of.outcome and not self.is_alive(of)}
        kept = self.do(self.ledgers[replica].beat(list(asked)))
        assert mine.keys() - over <= kept <= mine.keys()
        for fence in kept:
            mine[fence].ends = self.clock + self.lease

    @precondition(lambda self: self.won)
    @rule(data=st.data(), outcome=st.sampled_from(("succeeded", "failed")), runs_on=st.booleans())
    def finish(self, data: st.DataObject, outcome: Outcome, runs_on: bool) -> None:
        """The first outcome stands, and only whoever has the run says it."""
        replica, fire, fence = claim = data.draw(st.sampled_from(self.won))
        known = self.fires[fire]
        mine = known.fence == fence
        if mine:
            known.outcome = known.outcome or outcome
        stands = self.do(
            self.ledgers[replica].finish(
                fence, outcome, attempt=known.attempt, still_running=runs_on
            )
        )
        assert stands == (known.outcome if mine else None)
        if mine and not runs_on:
            known.ends = None
        if not runs_on:
            self.won.remove(claim)

    @precondition(lambda self: self.won)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """The body's own transaction completes a run once, and only for whoever has it."""
        _, fire, fence = data.draw(st.sampled_from(self.won))
        known = self.fires[fire]
        mine = known.fence == fence and known.outcome is None
        with self.database.engine.begin() as connection:
            done = connection.execute(completion(wiring.database.DIALECT, fence, 30))
            assert done.rowcount == mine
        if mine:
            known.outcome = "succeeded"

    @precondition(lambda self: self.won)
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        """What has no outcome yet is anybody's at once."""
        replica, fire, fence = claim = data.draw(st.sampled_from(self.won))
        known = self.fires[fire]
        mine = known.fence == fence and known.outcome is None
        assert self.do(self.ledgers[replica].hand_over(fence, [])) == mine
        self.won.remove(claim)
        if mine:
            known.fence, known.ends = VOID, self.clock

    @rule(replica=REPLICAS)
    def take_over(self, replica: str) -> None:
        """Whatever lost its holder is run again, unless its job runs already."""
        for fire, row in self.expired(replica).items():
            holder = self.holder(fire)
            free = holder is None or holder is self.fires[fire]
            # Another one may have begun to, and have the lock, where that is not the ledger.
            for name in (replica, *NAMES):
                if won := self.do(self.ledgers[name].take_over(row, self.active_key(fire), [])):
                    assert free
                    assert won.attempt == self.fires[fire].attempt + 1
                    self.grant(name, fire, won)
                    break
            else:
                assert not free

    @rule(replica=REPLICAS)
    def give_up(self, replica: str) -> None:
        """It is lost, and stays so."""
        for fire, row in self.expired(replica).items():
            assert self.do(self.ledgers[replica].give_up(row.fence, "nobody knows it"))
            self.fires[fire].outcome, self.fires[fire].ends = "lost", None

    @rule(leases=st.sampled_from((0.4, 0.7, 1.1)))
    def time_passes(self, leases: float) -> None:
        time_goes_by(self.settings, self.database, leases * LEASE)
        self.clock += leases * LEASE

    @precondition(lambda self: self.lease == inf)
    @rule()
    def restart(self) -> None:
        """The only scheduling process is another one now."""
        self.do(wiring.lock.ledger(self.settings, self.database, "d").disown_others())
        for known in self.fires.values():
            if known.ends is not None:
                known.ends = self.clock

    @invariant()
    def the_ledger_is_as_it_should_be(self) -> None:
        found = self.do(runs(self.database, self.name))
        rows = {self.fire(row): row for row in found}
        assert len(rows) == len(found)  # one row for each fire
        assert rows.keys() == self.fires.keys()
        for fire, known in self.fires.items():
            row = rows[fire]
            assert row.outcome == known.outcome
            has_key = known.ends is not None and known.fence != VOID and fire[0] == "alone"
            assert (row.active_key is not None) == has_key
            if known.fence == VOID:
                assert row.fence not in {fence for _, _, fence in self.won}
            else:
                assert row.fence == known.fence
            assert (row.fence or 0) >= known.seen  # it only grows
            known.seen = row.fence or 0
        assert sum(row.active_key is not None for row in found) <= 1

    def teardown(self) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(delete(job_runs))

    def grant(self, replica: str, fire: Key, won: Won) -> None:
        assert won.fence > self.newest
        self.newest = won.fence
        self.fires[fire] = Known(won.fence, self.clock + self.lease, won.attempt)
        self.won.append((replica, fire, won.fence))

    def holder(self, fire: Key) -> Known | None:
        """The run that keeps its job's others from starting."""
        for (job, _), known in self.fires.items():
            if job == fire[0] == "alone" and known.ends is not None and known.fence != VOID:
                return known
        return None

    def is_alive(self, known: Known) -> bool:
        return known.ends is not None and known.ends > self.clock

    def expired(self, replica: str) -> dict[Key, Row[Any]]:
        """What the ledger takes for dead: just what has no outcome and no lease."""
        rows = self.do(self.ledgers[replica].expired())
        assert {self.fire(row) for row in rows} == {
            fire
            for fire, known in self.fires.items()
            if known.outcome is None and not self.is_alive(known)
        }
        return {self.fire(row): row for row in rows}

    def fire(self, row: Row[Any]) -> Key:
        return row.job.removeprefix(self.name), row.fire_time - self.base

    def active_key(self, fire: Key) -> str | None:
        return self.name + fire[0] if fire[0] == "alone" else None

    async def store_time(self) -> int:
        async with self.database.reading() as connection:
            return int((await connection.execute(select(self.database.dialect.now()))).scalar_one())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)


@pytest.fixture
def model(
    make_settings: Callable[..., Settings], never_busy: None
) -> Iterator[Callable[[], LedgerModel]]:
    settings = make_settings(catch_up_seconds=3600).model_copy(update={"lease_seconds": LEASE})
    database = Database(settings, wiring.database.DIALECT)
    ledgers = {name: wiring.lock.ledger(settings, database, name) for name in NAMES}
    with asyncio.Runner() as loop:
        yield lambda: LedgerModel(settings, ledgers, loop)
        for ledger in ledgers.values():
            loop.run(ledger.close())
        loop.run(database.close())


def test_whatever_the_order_a_fire_has_one_owner_and_one_outcome(
    model: Callable[[], LedgerModel],
) -> None:
    """Few orders, the same each time; `make test-faults` tries many."""
    few = effort(max_examples=8, stateful_step_count=20, derandomize=True, deadline=None)
    run_model(model, settings=few)
