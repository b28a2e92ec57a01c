"""One claimed run: its attempts, and its record."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from app.core.executors import Call, Ended, ExecutorBackend, names
from app.core.logging import in_words
from app.core.scheduling.answers import Outcome, Won
from app.core.scheduling.entry import Entry, Settled, Settlement
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.triggers import moment

_log = logging.getLogger("app.jobs")
_FAILED = ("failed", "timed_out")
T = TypeVar("T")


class Execution:
    """Holds the claim from here to the record, retries included."""

    def __init__(
        self,
        ledger: Ledger,
        executor: ExecutorBackend,
        entry: Entry,
        time: int,
        claim: Won,
        attempts: Sequence[dict[str, Any]],
        settled: Settled,
    ) -> None:
        self.entry = entry
        self.time = time
        self.fence = claim.fence
        self.claimed = monotonic()
        self._claim = claim
        self._ledger = ledger
        self._executor = executor
        self._attempts = list(attempts)
        self._attempt = claim.attempt
        self._settled = settled
        self._body: asyncio.Task[Any] | None = None
        self.lost = False
        self._draining = False
        self._pausing = False
        self._stopping = False

    def lose(self, why: str) -> None:
        """Somebody else has this run, or may have: end the body, record nothing."""
        if self._body is not None and not self._body.done():
            _log.error("%s: cancelled, %s", self.entry.key, why)
            self.lost = True
            self._body.cancel()

    def drain(self) -> None:
        """The service stops: end the body, and give the run back."""
        self._draining = True
        if self._body is not None:
            self._body.cancel()

    def drain_if_pausing(self) -> None:
        """The service stops: give the run back once it only waits for its next attempt."""
        self._stopping = True
        if self._pausing:
            self.drain()

    async def run(self) -> None:
        """Run to the end. The slot and the lease are its own until the function has ended."""
        started, late = time.monotonic(), time.time() - self.time / 1e6
        outcome: Outcome | None = None
        ended = Ended("failed", "it did not start")
        try:
            ended = await self._until_it_stands()
            outcome = await self._record(ended)
            self._report(outcome, ended.error, time.monotonic() - started, late)
            self._settled(Settlement(outcome is not None, outcome, ended.error))
            if ended.still_running is not None and not self._draining:
                await asyncio.wait({asyncio.ensure_future(ended.still_running)})
                await self._insist(lambda: self._ledger.release(self.fence))
        except Exception:
            _log.exception("%s: its run could not be brought to an end", self.entry.key)

    async def _until_it_stands(self) -> Ended:
        while True:
            ended = await self._once()
            if self.lost or not await self._again(ended):
                return ended
            self._attempt += 1
            if self._draining:
                return Ended("cancelled", "the service stopped before its next attempt")

    async def _once(self) -> Ended:
        call = Call(
            job=self.entry.job,
            key=self.entry.key,
            args=self.entry.args,
            kwargs=self.entry.kwargs,
            fire_time=moment(self.time),
            attempt=self._attempt,
            fence=self.fence,
            run_id=self._claim.run_id,
        )
        self._body = asyncio.create_task(self._executor.execute(call))
        if self._draining:
            self._body.cancel()
        try:
            await asyncio.wait({self._body})
        except asyncio.CancelledError:
            self._body.cancel()
            raise
        if self._body.cancelled():
            return Ended("cancelled", "cancelled before it began")
        if error := self._body.exception():
            return Ended("failed", f"the executor {self.entry.executor} failed: {error!r}")
        ended: Ended = self._body.result()
        return ended

    async def _again(self, ended: Ended) -> bool:
        """Wait for the next attempt at a failed fire; False if there is none."""
        failures = sum(past["outcome"] in _FAILED for past in self._attempts) + 1
        over = ended.outcome not in _FAILED or failures > self.entry.job.retries
        if over or ended.still_running is not None or self._draining:
            return False
        past = [*self._attempts, self._past(ended.outcome, ended.error)]
        if not await self._insist(lambda: self._ledger.retry(self.fence, self._attempt + 1, past)):
            return False  # its own transaction completed it, before it failed
        self._attempts = past
        self._body = asyncio.create_task(asyncio.sleep(self.entry.job.delay(failures)))
        self._pausing = True
        if self._stopping:
            self.drain()
        await asyncio.wait({self._body})
        self._pausing = False
        return not self.lost

    async def _record(self, ended: Ended) -> Outcome | None:
        """Write how it ended. None: it was given back, or somebody else has it."""
        outcome: Outcome = ended.outcome
        if self._draining and ended.outcome == "cancelled":
            outcome = "interrupted"
            past = [*self._attempts, self._past(outcome, ended.error)]
            if self.entry.restarts and ended.still_running is not None:
                # It ends with this process; until then the lease keeps others off.
                await self._insist(lambda: self._ledger.retry(self.fence, self._attempt, past))
                return None
            if self.entry.restarts and await self._insist(
                lambda: self._ledger.hand_over(self.fence, past)
            ):
                return None
        return await self._insist(
            lambda: self._ledger.finish(
                self.fence,
                outcome,
                attempt=self._attempt,
                attempts=self._attempts,
                error=ended.error,
                still_running=ended.still_running is not None,
            )
        )

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T | None:
        """Write to the ledger, again and again until it answers: the run is still ours."""
        pause = 0.1
        while not self.lost:
            try:
                return await write()
            except Exception as error:
                _log.warning("%s waits to be recorded: %s", self.entry.key, in_words(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        return None

    def _past(self, outcome: str, error: str | None) -> dict[str, Any]:
        return {"attempt": self._attempt, "outcome": outcome, "error": error, "at": time.time()}

    def _report(
        self, outcome: Outcome | None, error: str | None, seconds: float, late: float
    ) -> None:
        """The one line of a run."""
        entry = self.entry
        fields = {
            **names(entry.job, entry.key, self._claim.run_id, moment(self.time)),
            "attempt": self._attempt,
            "outcome": outcome or ("given back" if self._draining else "taken over"),
            "duration_ms": round(seconds * 1000),
            "lateness_ms": round(late * 1000),
        }
        if error:
            fields["error"] = error
        level = logging.WARNING if outcome is None else logging.ERROR
        level = logging.INFO if outcome == "succeeded" and not error else level
        _log.log(level, "run %s", fields["outcome"], extra=fields)
