"""The heartbeat: it keeps the claims of a replica alive, and ends what may be another's by now."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from app.core.database import is_busy
from app.core.scheduling.execution import Execution
from app.core.scheduling.ledger import Ledger
from app.core.tasks import end

_log = logging.getLogger("app.jobs")


class Heartbeat:
    """One for all runs of this replica, each third of a lease."""

    def __init__(self, ledger: Ledger, running: Mapping[int, Execution]) -> None:
        self._ledger = ledger
        self._running = running
        self._heard = 0.0

    async def forever(self, lease: float) -> None:
        self._heard = time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(lease / 3)
            if (stood := time.monotonic() - before - lease / 3) > lease:
                _log.error("this replica stood still for %.1f s, longer than its lease", stood)
            fences = list(self._running)
            try:
                kept = await self._answer(fences, lease) if fences else set()
                self._heard = time.monotonic()
            except Exception as error:
                if is_busy(error):  # while one process writes, nobody can take over
                    self._heard = time.monotonic()
                self._judge(lease)
                continue
            self._lose([fence for fence in fences if fence not in kept], "it was taken over")

    async def _answer(self, fences: list[int], lease: float) -> set[int]:
        """A call to a frozen server outlives its own time-out; the runs must not wait for that."""
        beat = asyncio.ensure_future(self._ledger.beat(fences))
        alone = self._ledger.database.dialect.longest_write(lease) is not None
        left = None if alone else max(0.0, self._heard + lease - time.monotonic())
        try:
            while not (await asyncio.wait({beat}, timeout=left))[0]:
                self._judge(lease)
                left = lease / 3
            return await beat
        finally:
            await end(beat)  # its connection has a transaction open

    def _judge(self, lease: float) -> None:
        if (now := time.monotonic()) - self._heard >= lease:
            cancelled = (
                fence
                for fence, run in list(self._running.items())
                # Whoever was claimed since then has a lease.
                if run.entry.job.on_store_loss == "cancel" and now - run.claimed >= lease
            )
            self._lose(cancelled, "the database was silent for a whole lease")

    def _lose(self, fences: Iterable[int], why: str) -> None:
        for run in filter(None, map(self._running.get, fences)):
            run.lose(why)
