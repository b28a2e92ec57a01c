"""Runs what is due: claims it when there is a slot for it, and keeps the claims alive."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from app.core.executors import ExecutorBackend
from app.core.logging import in_words
from app.core.scheduling.answers import Claim, Early, Fire, Paused, Refused, Stale, Taken, Won
from app.core.scheduling.entry import Entry, Settled, Settlement
from app.core.scheduling.execution import Execution
from app.core.scheduling.heartbeat import Heartbeat
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.triggers import microseconds, moment
from app.core.tasks import end

_log = logging.getLogger("app.jobs")
_BATCH = 500
_RETRY = 0.5
_LAST_WORDS = 5.0


@dataclass(eq=False)
class Waiting:
    """A fire that is due and not claimed yet."""

    entry: Entry
    time: int
    settled: Settled
    late: bool
    not_before: float = 0.0


class Runner:
    """Runs what is submitted, each fire once over all replicas."""

    def __init__(self, ledger: Ledger, executors: Mapping[str, ExecutorBackend]) -> None:
        self.ledger = ledger
        self.executors = executors
        self._waiting: dict[tuple[str, int], Waiting] = {}
        self._running: dict[int, Execution] = {}
        ledger.running = self._running
        self._used: Counter[str] = Counter()
        self._runs: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []
        self.wanted: Callable[[Entry], bool] = lambda entry: True
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.find: Callable[[str], Entry | None] = lambda key: None
        self.remembered: dict[str, Entry] = {}
        """Of this process's memory alone, and with runs that somebody else has."""

    def check_executor(self, name: str | None, what: str) -> None:
        """Raise `ValueError` for the name of an executor that this service does not have."""
        if name not in (None, "default", *self.executors):
            known = ", ".join(map(repr, self.executors))
            raise ValueError(f"{what}: executor={name!r} is none of {known}")

    def start(self) -> None:
        self._loops = [asyncio.create_task(self._claim_forever(), name="claims")]
        if self.ledger.lease is not None:
            beats = Heartbeat(self.ledger, self._running).forever(self.ledger.lease)
            self._loops.append(asyncio.create_task(beats, name="heartbeat"))

    def submit(self, entry: Entry, time: int, settled: Settled, late: bool = False) -> None:
        """A fire is due, or `late`. It is claimed when there is a free slot; nothing here waits."""
        self._waiting.setdefault((entry.key, time), Waiting(entry, time, settled, late))
        self._wake.set()

    def resume(
        self,
        entry: Entry,
        time: int,
        claim: Won,
        attempts: Sequence[dict[str, Any]],
        settled: Settled,
    ) -> asyncio.Task[None]:
        """Run what is claimed already: taken over from a dead replica, for one."""
        executor = self.executors[entry.executor]
        run = Execution(self.ledger, executor, entry, time, claim, attempts, settled)
        self._running[run.fence] = run
        self._used[entry.executor] += 1
        task = asyncio.create_task(run.run(), name=f"run-{entry.key}")
        self._runs.add(task)
        task.add_done_callback(lambda task: self._ended(task, run))
        return task

    async def take_over(
        self, entry: Entry, row: Row[Any], attempts: Sequence[dict[str, Any]], settled: Settled
    ) -> bool:
        """Run again what a dead replica left behind, if there is a slot for it."""
        if self.free(entry.executor) <= 0:
            return False
        won = await self.ledger.take_over(row, entry.active_key, attempts)
        if won:
            self.resume(entry, row.fire_time, won, attempts, settled)
        return won is not None

    def _ended(self, task: asyncio.Task[None], run: Execution) -> None:
        self._runs.discard(task)
        self._running.pop(run.fence, None)
        self._used[run.entry.executor] -= 1
        self.remembered.pop(run.entry.key, None)
        if run.lost and run.entry.origin == "memory":  # nobody else could run it again
            self.remembered[run.entry.key] = run.entry
        self._wake.set()

    @property
    def fences(self) -> list[int]:
        """Of the runs that this replica has."""
        return list(self._running)

    def knows(self, key: str, time: int) -> bool:
        """Is this fire waiting or running here?"""
        running = any(r.entry.key == key and r.time == time for r in self._running.values())
        return running or (key, time) in self._waiting

    def late(self) -> dict[str, int]:
        """The first fire of each key that is asked for here although it is late."""
        first: dict[str, int] = {}
        for (key, fire_time), waiting in self._waiting.items():
            if waiting.late:
                first[key] = min(fire_time, first.get(key, fire_time))
        return first

    def free(self, executor: str) -> int:
        """How many more runs this executor takes; none once the service stops."""
        return 0 if self._stopping else self.executors[executor].slots - self._used[executor]

    async def _claim_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            try:
                while due := self._next_batch():
                    answers = await self.ledger.claim([self._fire(waiting) for waiting in due])
                    await self._claimed(zip(due, answers, strict=True))
            except Exception as error:
                # What is due stays in line; the web part goes on.
                _log.warning("claims wait: %s", in_words(error))
                await asyncio.sleep(_RETRY)
                self._wake.set()

    def _ask_again(self, waiting: Waiting, seconds: float) -> None:
        waiting.not_before = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self._wake.set)

    def _next_batch(self) -> list[Waiting]:
        """What is due and has a slot, so that other replicas get what has none here."""
        slots = {name: max(0, self.free(name)) for name in self.executors}
        now, left, batch = time.monotonic(), sum(slots.values()), list[Waiting]()
        for waiting in list(self._waiting.values()):
            if self._is_stale(waiting) or not self.wanted(waiting.entry):
                del self._waiting[waiting.entry.key, waiting.time]
                waiting.settled(Settlement(False))
            elif left == 0 or len(batch) == _BATCH:
                break
            elif waiting.not_before <= now and slots[waiting.entry.executor] > 0:
                slots[waiting.entry.executor] -= 1
                left -= 1
                batch.append(waiting)
        return batch

    def _is_stale(self, waiting: Waiting) -> bool:
        """It got no slot in time: that is the cursor's to account for, and not asked one by one."""
        age = microseconds(self.now()) - waiting.time
        return waiting.entry.is_owed and not waiting.late and age > 2 * self.ledger.patience

    def _fire(self, waiting: Waiting) -> Fire:
        late = waiting.late or not waiting.entry.is_owed
        return Fire(waiting.entry.key, waiting.time, waiting.entry.active_key, late)

    async def _claimed(self, answers: Iterable[tuple[Waiting, Claim]]) -> None:
        for waiting, claim in answers:
            self._take(waiting, claim)

    def _take(self, waiting: Waiting, claim: Claim) -> None:
        entry, at = waiting.entry, waiting.time
        if isinstance(claim, Early):
            self._ask_again(waiting, claim.seconds)
            return
        if isinstance(claim, Taken) and not claim.recorded:
            # Whoever was elected may die before it is in the ledger, where others would find it.
            waiting.late = True
            self._ask_again(waiting, self.ledger.patience / 1e6 + _RETRY)
            return
        self._waiting.pop((entry.key, at), None)
        match claim:
            case Won():
                self.resume(entry, at, claim, [], waiting.settled)
            case Taken(settled=settled):
                waiting.settled(Settlement(settled))
            case Paused() | Stale():
                waiting.settled(Settlement(False))
            case Refused(outcome):
                _log.info("%s %s: %s", entry.key, moment(at).isoformat(), outcome)
                waiting.settled(Settlement(True, outcome))

    def stop_claims(self) -> None:
        """Claim nothing more; what runs, runs on."""
        self._stopping = True
        self._waiting.clear()
        self._wake.set()

    def hurry(self) -> None:
        """Wait no longer for what runs."""
        self._hurry.set()

    async def close(self) -> None:
        """Close what is open beside the executors."""

    async def drain(self, grace: float) -> None:
        """Let what runs end within `grace` seconds; then cancel it, and record or give it back."""
        self.stop_claims()
        if self._loops:  # a claim that is under way may yet be won
            await asyncio.wait(self._loops[:1], timeout=_LAST_WORDS)
        for run in self._running.values():
            run.drain_if_pausing()
        hurry = asyncio.create_task(self._hurry.wait())
        deadline = time.monotonic() + grace
        while self._runs and not hurry.done() and (left := deadline - time.monotonic()) > 0:
            waits = {*self._runs, hurry}
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for run in self._running.values():
            run.drain()
        if self._runs:
            await asyncio.wait(self._runs, timeout=_LAST_WORDS)
        await end(*self._runs, *self._loops)


def make_runner(ledger: Ledger, executors: Mapping[str, ExecutorBackend], engine: object) -> Runner:
    """One that runs everything in this process and its children."""
    return Runner(ledger, executors)
