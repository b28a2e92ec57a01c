"""A worker: runs what scheduling processes send, on this machine or another. `make worker`."""

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import app.jobs
from app.core.executors.engine import Message
from app.core.logging import configure_logging, in_words
from app.core.scheduling.answers import Won
from app.core.scheduling.declaration import Job, discover, find
from app.core.scheduling.dispatch import DispatchRunner
from app.core.scheduling.entry import Entry, Settlement
from app.core.scheduling.queue import Queue
from app.core.scheduling.triggers import moment
from app.core.service import Service
from app.core.settings import InvalidSettings
from app.core.stores import Definition, DefinitionChanged, UnreadableDefinition
from app.settings import Settings

_log = logging.getLogger(__name__)
_RETRY = 0.5


class Worker(Service):
    """A service that schedules nothing: it runs MAX_WORKERS fires at a time."""

    def __init__(self, settings: Settings, jobs: Mapping[str, Job]) -> None:
        super().__init__(settings, jobs)
        self._queue = Queue(self.ledger)
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        assert isinstance(self.runner, DispatchRunner)
        await self.runner.engine.open()
        self.runner.work()
        slots = self.settings.max_workers
        self._serving = asyncio.create_task(
            self.runner.engine.serve(slots, self.handle, self._stopping), name="serve"
        )
        _log.info("working", extra={"slots": slots})

    async def handle(self, message: Message) -> None:
        """Run it, unless it has been run: a message may come twice, or late."""
        key, time = message["key"], message["fire_time"]
        try:
            job = find(message["job"])
            started = await self._take(message)
        except Exception as error:
            # Its row stays as it is, and is sent again.
            _log.warning("%s %s: not taken: %s", key, moment(time).isoformat(), in_words(error))
            return
        if started is None:
            return
        claim, attempts = started
        if self._stopping.is_set():  # the drain has passed
            past = {"attempt": claim.attempt, "outcome": "interrupted", "error": "a stop"}
            await self.ledger.hand_over(claim.fence, [*attempts, past])
            return
        settlements: list[Settlement] = []
        entry = Entry(
            key=key,
            job=job,
            args=(),
            kwargs=message["kwargs"],
            executor="asyncio" if job.is_async else "processpool",
            origin="store",
        )
        await asyncio.wait({self.runner.resume(entry, time, claim, attempts, settlements.append)})
        if any(settlement.over for settlement in settlements):
            await self._complete(message)

    async def _take(self, message: Message) -> tuple[Won, list[dict[str, Any]]] | None:
        """Its run, if it is to run here. Who does not answer is asked again, for a lease.

        Without that a session which ends just then would cost all the time until it is sent again.
        """
        key, time = message["key"], message["fire_time"]
        enough = monotonic() + self.settings.lease_seconds
        while not self._stopping.is_set():
            try:
                stored = await self._definition(message)
                if message.get("stored") and stored is None:
                    await self._queue.give_up(key, time, "cancelled")  # it was removed meanwhile
                if stored and stored.paused:
                    return None  # it is sent again
                return await self._queue.start(key, time)
            except UnreadableDefinition:  # another version's: it is sent again, perhaps to that
                raise
            except Exception as error:
                if monotonic() > enough:
                    raise
                _log.warning("%s is asked for again: %s", key, in_words(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY)
        return None

    async def _definition(self, message: Message) -> Definition | None:
        """What the job store has on it, if it is from there."""
        if self.definitions is None or not message.get("stored"):
            return None
        definition = await self.definitions.get(message["key"].rpartition(":")[0])
        return definition if definition and definition.key == message["key"] else None

    async def _complete(self, message: Message) -> None:
        """A one-off job has its outcome: its definition goes."""
        try:
            definition = await self._definition(message)
            if self.definitions and definition and definition.fire_time is not None:
                await self.definitions.change(replace(definition, removed=True))
        except DefinitionChanged:
            pass  # its id is in use again
        except Exception as error:
            _log.warning("%s is done, but in the job store: %s", message["key"], in_words(error))

    def stop_taking(self) -> None:
        """Take no more messages; what runs, runs on."""
        if self._stopping.is_set():
            self.runner.hurry()
        self._stopping.set()

    async def run(self) -> None:
        """Work until a signal says stop; then drain, and close everything."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop_taking)
        try:
            await self.start()
            await self._stopping.wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        self._stopping.set()
        await super().stop()

    async def finish(self) -> None:
        if self._serving is not None:
            await asyncio.wait({self._serving})


async def _main() -> None:
    try:
        settings = Settings.load()
        settings.check_servers()
    except InvalidSettings as error:
        sys.exit(f"The worker cannot start with these settings:\n{error}")
    configure_logging(settings)
    await Worker(settings, discover(app.jobs)).run()


if __name__ == "__main__":
    asyncio.run(_main())
