"""One run: claim, execute, record. And the heartbeat that keeps this replica's claims alive."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from app.core.database import is_busy
from app.core.executors import Call, Ended, ExecutorBackend, names
from app.core.scheduling.declaration import Job
from app.core.scheduling.ledger import Early, Fire, Ledger, Outcome, Refused, Taken, Won
from app.core.scheduling.triggers import moment

_log = logging.getLogger("app.jobs")
_BATCH = 500
T = TypeVar("T")


class Settlement(NamedTuple):
    """What became of a submitted fire. `over`: it has an outcome, here or on another replica."""

    over: bool
    outcome: Outcome | None = None
    error: str | None = None


Settled = Callable[[Settlement], None]


@dataclass(frozen=True)
class Entry:
    """What is scheduled: a job with its arguments, under the key that it is claimed by."""

    key: str
    job: Job
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    executor: str

    @property
    def active_key(self) -> str | None:
        return self.key if self.job.overlap == "skip" else None

    @property
    def restarts(self) -> bool:
        """May another process run it again, after this one?"""
        return self.job.declared and self.job.on_crash == "retry"


@dataclass(eq=False)
class _Waiting:
    entry: Entry
    time: int
    settled: Settled
    not_before: float = 0.0


@dataclass(eq=False)
class _Active:
    entry: Entry
    time: int
    claim: Won
    settled: Settled
    attempts: list[dict[str, Any]]
    body: "asyncio.Task[Ended] | None" = None
    lost: bool = field(default=False)
    draining: bool = field(default=False)

    def cancel(self) -> None:
        if self.body is not None:
            self.body.cancel()


class Runner:
    """Runs what is submitted, each fire at most once over all replicas."""

    def __init__(self, ledger: Ledger, executors: Mapping[str, ExecutorBackend]) -> None:
        self.ledger = ledger
        self.executors = executors
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._active: dict[int, _Active] = {}
        self._used: Counter[str] = Counter()
        self._runs: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    def start(self) -> None:
        self._loops = [asyncio.create_task(self._claim_forever(), name="claims")]
        if self.ledger.lease is not None:
            beats = self._beat_forever(self.ledger.lease)
            self._loops.append(asyncio.create_task(beats, name="heartbeat"))

    def submit(self, entry: Entry, time: int, settled: Settled) -> None:
        """A fire is due. It is claimed as soon as there is a free slot; nothing here waits."""
        self._waiting.setdefault((entry.key, time), _Waiting(entry, time, settled))
        self._wake.set()

    def resume(
        self,
        entry: Entry,
        time: int,
        claim: Won,
        attempts: Sequence[dict[str, Any]],
        settled: Settled,
    ) -> None:
        """Run what was taken over from a dead replica."""
        self._begin(_Active(entry, time, claim, settled, list(attempts)))

    def knows(self, key: str, time: int) -> bool:
        """Is this fire waiting or running here?"""
        running = any(a.entry.key == key and a.time == time for a in self._active.values())
        return running or (key, time) in self._waiting

    def free(self, executor: str) -> int:
        return self.executors[executor].slots - self._used[executor]

    async def _claim_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._claim_due()
            except Exception as error:
                # The fires stay in line; the web part goes on.
                _log.warning("claims wait for the database: %s", error)
                self._wake_in(0.5)

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._wake.set)

    async def _claim_due(self) -> None:
        while due := self._next_batch():
            fires = [Fire(w.entry.key, w.time, w.entry.active_key) for w in due]
            for waiting, claim in zip(due, await self.ledger.claim(fires), strict=True):
                self._take(waiting, claim)

    def _next_batch(self) -> list[_Waiting]:
        now, batch, slots = time.monotonic(), [], {n: self.free(n) for n in self.executors}
        for waiting in self._waiting.values():
            if waiting.not_before <= now and slots[waiting.entry.executor] > 0:
                slots[waiting.entry.executor] -= 1
                batch.append(waiting)
                if len(batch) == _BATCH:
                    break
        return batch

    def _take(self, waiting: _Waiting, claim: Won | Taken | Early | Refused) -> None:
        if isinstance(claim, Early):
            waiting.not_before = time.monotonic() + claim.seconds
            self._wake_in(claim.seconds)
            return
        del self._waiting[waiting.entry.key, waiting.time]
        match claim:
            case Won():
                active = _Active(waiting.entry, waiting.time, claim, waiting.settled, [])
                self._begin(active)
            case Taken(settled):
                waiting.settled(Settlement(settled))
            case Refused(why):
                _log.info("%s %s: %s", waiting.entry.key, moment(waiting.time).isoformat(), why)
                refused = Settlement(False) if why == "paused" else Settlement(True, why)
                waiting.settled(refused)

    def _begin(self, active: _Active) -> None:
        self._active[active.claim.fence] = active
        self._used[active.entry.executor] += 1
        run = asyncio.create_task(self._run(active), name=f"run-{active.entry.key}")
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, active: _Active) -> None:
        """From the claim to the record, retries included; slot and lease are held throughout."""
        entry, fence = active.entry, active.claim.fence
        started, late = time.monotonic(), time.time() - active.time / 1e6
        attempt, ended = active.claim.attempt, Ended("failed", "it did not start")
        outcome: Outcome | None = None
        try:
            while True:
                ended = await self._attempt(active, attempt)
                if active.lost or not await self._again(active, attempt, ended):
                    break
                attempt += 1
            outcome = await self._record(active, attempt, ended)
            if ended.still_running is not None:
                await asyncio.wait({asyncio.ensure_future(ended.still_running)})
                await self._insist(active, lambda: self.ledger.release(fence))
        finally:
            self._active.pop(fence, None)
            self._used[entry.executor] -= 1
            self._wake.set()
            active.settled(Settlement(outcome is not None, outcome, ended.error))
            _report(active, attempt, outcome, ended.error, time.monotonic() - started, late)

    async def _attempt(self, active: _Active, attempt: int) -> Ended:
        entry = active.entry
        call = Call(
            job=entry.job,
            key=entry.key,
            args=entry.args,
            kwargs=entry.kwargs,
            fire_time=moment(active.time),
            attempt=attempt,
            fence=active.claim.fence,
            run_id=active.claim.run_id,
        )
        active.body = asyncio.create_task(self.executors[entry.executor].execute(call))
        try:
            return await active.body
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not active.body.cancelled():
                active.body.cancel()  # it is this run that was cancelled
                raise
            return Ended("failed", f"the executor {entry.executor} failed: {error!r}")

    async def _again(self, active: _Active, attempt: int, ended: Ended) -> bool:
        """Wait for the next attempt at a failed fire; False if there is none."""
        job = active.entry.job
        failed = ended.outcome in ("failed", "timed_out")
        failures = sum(a["outcome"] in ("failed", "timed_out") for a in active.attempts) + 1
        if not failed or failures > job.retries or ended.still_running or active.draining:
            return False
        active.attempts.append(_past(attempt, ended.outcome, ended.error))
        fence = active.claim.fence
        if not await self._insist(
            active, lambda: self.ledger.retry(fence, attempt + 1, active.attempts)
        ):
            active.attempts.pop()  # completed by its own transaction, before it failed
            return False
        active.body = asyncio.create_task(_sleep(job.delay(failures)))
        with suppress(asyncio.CancelledError):
            await active.body
        return not (active.lost or active.draining)

    async def _record(self, active: _Active, attempt: int, ended: Ended) -> Outcome | None:
        """Write how it ended. None: it was given back, or somebody else has it."""
        if active.lost:
            return None
        outcome: Outcome = ended.outcome
        fence, attempts = active.claim.fence, active.attempts
        if active.draining and ended.outcome == "cancelled":
            outcome = "interrupted"
            if active.entry.restarts:
                past = [*attempts, _past(attempt, "interrupted", ended.error)]
                if await self._insist(active, lambda: self.ledger.hand_over(fence, past)):
                    return None
        return await self._insist(
            active,
            lambda: self.ledger.finish(
                fence,
                outcome,
                attempt=attempt,
                attempts=attempts,
                error=ended.error,
                still_running=ended.still_running is not None,
            ),
        )

    async def _insist(self, active: _Active, write: Callable[[], Awaitable[T]]) -> T | None:
        """Write to the ledger, again and again until it answers: the run is still ours."""
        pause = 0.1
        while not active.lost:
            try:
                return await write()
            except Exception as error:
                _log.warning("%s waits to be recorded: %s", active.entry.key, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        return None

    async def _beat_forever(self, lease: float) -> None:
        heard = time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(lease / 3)
            if (stalled := time.monotonic() - before - lease / 3) > lease:
                _log.error("this replica stood still for %.1f s, longer than its lease", stalled)
            fences = list(self._active)
            try:
                kept = await self.ledger.beat(fences) if fences else set()
                heard = time.monotonic()
            except Exception as error:
                if is_busy(error):  # while one process writes, nobody can take over
                    heard = time.monotonic()
                if time.monotonic() - heard > lease:
                    self._lose(fences, "the database was silent for a whole lease")
                continue
            self._lose([f for f in fences if f not in kept], "it was taken over")

    def _lose(self, fences: Sequence[int], why: str) -> None:
        for active in filter(None, map(self._active.get, fences)):
            if active.body is not None and not active.body.done():
                _log.error("%s: cancelled, %s", active.entry.key, why)
                active.lost = True
                active.cancel()

    def stop_claims(self) -> None:
        """Claim nothing more; what runs, runs on. Safe to call in a signal handler's callback."""
        for loop in self._loops[:1]:
            loop.cancel()
        self._waiting.clear()

    def hurry(self) -> None:
        """Wait no longer for what runs."""
        self._hurry.set()

    async def drain(self, grace: float) -> None:
        """Let what runs end within `grace` seconds; then cancel it, and record or give it back."""
        self.stop_claims()
        hurry = asyncio.create_task(self._hurry.wait())
        deadline = time.monotonic() + grace
        while self._runs and not hurry.done() and (left := deadline - time.monotonic()) > 0:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({*self._runs, hurry}, timeout=left, return_when=first)
        hurry.cancel()
        for active in self._active.values():
            active.draining = True
            active.cancel()
        if self._runs:
            await asyncio.wait(self._runs, timeout=5)
        for task in (*self._runs, *self._loops):
            task.cancel()
        await asyncio.gather(*self._runs, *self._loops, return_exceptions=True)


async def _sleep(seconds: float) -> Ended:
    await asyncio.sleep(seconds)
    return Ended("succeeded")


def _past(attempt: int, outcome: str, error: str | None) -> dict[str, Any]:
    return {"attempt": attempt, "outcome": outcome, "error": error, "at": time.time()}


def _report(
    active: _Active,
    attempt: int,
    outcome: Outcome | None,
    error: str | None,
    seconds: float,
    late: float,
) -> None:
    """The one line of a run."""
    entry, claim = active.entry, active.claim
    fields = {
        **names(entry.job, entry.key, claim.run_id, moment(active.time)),
        "attempt": attempt,
        "outcome": outcome or ("taken over" if active.lost else "handed over"),
        "duration_ms": round(seconds * 1000),
        "lateness_ms": round(late * 1000),
    }
    if error:
        fields["error"] = error
    level = logging.INFO if outcome == "succeeded" and not error else logging.ERROR
    _log.log(level, "run %s", fields["outcome"], extra=fields)
