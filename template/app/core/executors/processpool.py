"""Jobs in worker processes: for work that computes. Ending one process hurts one run."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.core.database import Database
from app.core.executors.processes import Nursery, Worker
from app.core.executors.protocol import Call, Ended, describe
from app.core.scheduling.declaration import Job

if TYPE_CHECKING:
    from app.settings import Settings


class ProcesspoolExecutor:
    """MAX_WORKERS processes, each started when it is first needed and leased to one run at a time.

    What goes to and fro is pickled; the sockets are this process's own, on this machine.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.slots = settings.max_workers
        self._settings = settings
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._nursery: Nursery | None = None
        self._beginning = asyncio.Lock()

    def refuses(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        try:
            pickle.dumps(job)
        except Exception as error:
            return (
                f"{job.function!r} cannot be sent to a worker process ({error}): let its service "
                "store settings, and open live resources in its methods; or say "
                'executor="asyncio"'
            )
        return None

    async def execute(self, call: Call) -> Ended:
        try:
            message = pickle.dumps(call)
        except Exception as error:
            return Ended("failed", f"cannot be sent to a worker process: {describe(error)}")
        while True:
            fresh = not self._idle
            try:
                worker = await self._start() if fresh else self._idle.pop()
            except OSError as error:
                return Ended("failed", f"its worker process could not start: {describe(error)}")
            try:
                ended = await worker.run(message, call.job)
            except asyncio.CancelledError:
                ended = Ended("cancelled", "cancelled; its worker process was ended")
                await worker.kill()
            if worker.alive:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
            if ended is not None:
                return ended
            if fresh:
                return Ended("failed", "its worker process could not start; the log says why")

    async def _start(self) -> Worker:
        nursery = await self._open()
        try:
            worker = await nursery.worker()
        except ConnectionError:  # it has died since: that costs no run
            await nursery.close()
            worker = await (await self._open()).worker()
        self._all.add(worker)
        worker.send(pickle.dumps(self._settings))
        return worker

    async def _open(self) -> Nursery:
        async with self._beginning:
            if self._nursery is None or not self._nursery.alive:
                self._nursery = await Nursery.begin()
            return self._nursery

    async def close(self) -> None:
        """End every worker, and what its job has started."""
        await asyncio.gather(*(worker.kill() for worker in self._all))
        self._all.clear()
        self._idle.clear()
        if self._nursery is not None:
            await self._nursery.close()
