"""Claims fires here that run on workers: sent once, sent again if nobody takes them."""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from app.core.executors import Call, Ended, ExecutorBackend
from app.core.executors.engine import Engine
from app.core.logging import in_words
from app.core.scheduling.answers import Claim, Fire, Message, Won
from app.core.scheduling.declaration import Job
from app.core.scheduling.entry import Entry, Settled, Settlement
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.queue import Queue
from app.core.scheduling.runner import Runner, Waiting

_log = logging.getLogger("app.jobs")


class Workers:
    """The workers, as one more executor: how many fires they take is their own affair."""

    slots = 1_000_000

    def refuses(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        if not job.declared:
            return "a worker knows declared jobs only: declare it with @job() in app/jobs/"
        try:
            job.arguments(args, kwargs)
        except TypeError as error:
            return str(error)
        return None

    async def execute(self, call: Call) -> Ended:
        raise AssertionError(f"{call.key} is a worker's to run")

    async def close(self) -> None:
        """They are processes of their own."""


class DispatchRunner(Runner):
    """Runs what names a local executor itself, and sends the rest to the workers."""

    def __init__(
        self, ledger: Ledger, executors: Mapping[str, ExecutorBackend], engine: Engine
    ) -> None:
        super().__init__(ledger, {**executors, engine.name: Workers()})
        self.engine = engine
        self._opened = False
        self._queue = Queue(ledger)
        ledger.outbox = engine.enqueue

    def start(self) -> None:
        super().start()
        self._loops.append(asyncio.create_task(self._send_forever(), name="send-again"))

    def _fire(self, waiting: Waiting) -> Fire:
        fire = super()._fire(waiting)
        if waiting.entry.executor != self.engine.name:
            return fire
        return replace(fire, message=_message(waiting.entry, fire.time))

    async def _claimed(self, answers: Iterable[tuple[Waiting, Claim]]) -> None:
        sent: list[Message] = []
        for waiting, claim in answers:
            if isinstance(claim, Won) and waiting.entry.executor == self.engine.name:
                del self._waiting[waiting.entry.key, waiting.time]
                if waiting.entry.origin == "memory":
                    self.remembered[waiting.entry.key] = waiting.entry
                sent.append({**_message(waiting.entry, waiting.time), "fence": claim.fence})
                waiting.settled(Settlement(False))
            else:
                self._take(waiting, claim)
        await self._committed(sent)

    def work(self) -> None:
        """On a worker: run what arrives, and send nothing."""
        super().start()

    async def close(self) -> None:
        await self.engine.close()

    async def take_over(
        self, entry: Entry, row: Row[Any], attempts: Sequence[dict[str, Any]], settled: Settled
    ) -> bool:
        if entry.executor != self.engine.name:
            return await super().take_over(entry, row, attempts, settled)
        message = _message(entry, row.fire_time)
        sent = await self._queue.requeue(row, entry.active_key, attempts, message)
        # Twice: if its worker was frozen, that one may stand first in a broker's line, and get one.
        await self._committed([sent, sent] if sent else [])
        return sent is not None

    async def _send_forever(self) -> None:
        """Send again what no worker has taken; give up what is too old."""
        lease = self.ledger.patience / 1e6
        while True:
            await asyncio.sleep(lease / 3)
            try:
                last = 0
                while page := await self._queue.overdue(last):
                    for row in page:
                        await self._send_again(row)
                    last = page[-1].id
                asked = set(self.remembered)  # what is added meanwhile stays
                for key in asked - await self._queue.unsettled(sorted(asked)):
                    del self.remembered[key]
            except Exception as error:
                _log.warning("what waits for a worker is looked at again: %s", in_words(error))

    async def _send_again(self, row: Row[Any]) -> None:
        if row.fire_time < row.now - self.ledger.window:
            await self._queue.give_up(row.job, row.fire_time, "missed")
            _log.error("%s: no worker took it in time", row.job)
        elif (entry := self.find(row.job)) and entry.executor == self.engine.name:
            sent = await self._queue.send_again(row, _message(entry, row.fire_time))
            await self._committed([sent] if sent else [])
        elif entry:  # by now it is declared to run here
            await self.take_over(entry, row, json.loads(row.attempts or "[]"), lambda _: None)

    async def _committed(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        try:
            if not self._opened:
                await self.engine.open()
                self._opened = True
            await self.engine.committed(messages)
        except Exception as error:
            _log.warning("%d fires are sent again in a lease: %s", len(messages), in_words(error))


def _message(entry: Entry, time: int) -> Message:
    kwargs = entry.job.arguments(entry.args, entry.kwargs)
    return {
        "key": entry.key,
        "job": entry.job.id,
        "kwargs": kwargs,
        "fire_time": time,
        "stored": entry.origin == "store",
    }


def make_runner(ledger: Ledger, executors: Mapping[str, ExecutorBackend], engine: Engine) -> Runner:
    """One that sends to workers what names no local executor."""
    return DispatchRunner(ledger, executors, engine)
