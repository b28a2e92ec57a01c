"""Jobs in worker processes: for work that computes. Ending one process hurts one run."""

import asyncio
import os
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING, Any

from app.core.database import Database
from app.core.executors.protocol import Call, Ended, describe, timed_out

if TYPE_CHECKING:
    from app.settings import Settings

_LENGTH = struct.Struct("!I")


class ProcesspoolExecutor:
    """MAX_WORKERS processes, each started when it is first needed and leased to one run at a time.

    What goes through their pipes is pickled; the pipes are this process's own, on this machine.
    """

    def __init__(self, settings: "Settings", database: Database) -> None:
        self.slots = settings.max_workers
        self._settings = settings
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    async def execute(self, call: Call) -> Ended:
        try:
            message = pickle.dumps(call)
        except Exception as error:
            return Ended("failed", f"cannot be sent to a worker process: {describe(error)}")
        worker = self._idle.pop() if self._idle else await self._start()
        try:
            ended = await worker.run(message, call)
        except asyncio.CancelledError:
            ended = Ended("cancelled", "cancelled before it ended; its worker process was ended")
            await worker.kill()
        if worker.alive:
            self._idle.append(worker)
        else:
            self._all.discard(worker)
        return ended

    async def _start(self) -> "_Worker":
        worker = _Worker(await _spawn())
        self._all.add(worker)
        worker.send(pickle.dumps(self._settings))
        return worker

    async def close(self) -> None:
        await asyncio.gather(*(worker.kill() for worker in self._all))
        self._all.clear()
        self._idle.clear()


class _Worker:
    """One process. It ends by itself when its pipe closes, that is when this process has gone."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to, self._from = process.stdin, process.stdout
        self.alive = True

    def send(self, message: bytes) -> None:
        self._to.write(_LENGTH.pack(len(message)) + message)

    async def run(self, message: bytes, call: Call) -> Ended:
        self.send(message)
        try:
            await self._receive()  # it has begun: the time-out counts from here
            async with asyncio.timeout(call.job.timeout):
                ended: Ended = await self._receive()
                return ended
        except TimeoutError:
            await self.kill()
            return Ended("timed_out", timed_out(call.job))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.alive = False
            code = await self._process.wait()
            return Ended("failed", f"its worker process ended with exit code {code} in mid-run")

    async def _receive(self) -> Any:
        (length,) = _LENGTH.unpack(await self._from.readexactly(_LENGTH.size))
        return pickle.loads(await self._from.readexactly(length))

    async def kill(self) -> None:
        self.alive = False
        if self._process.returncode is None:
            self._process.kill()
        self._to.close()
        await self._process.wait()


async def _spawn() -> Process:
    # Its own session: Ctrl-C in a terminal goes to the service, which decides about its workers.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.core.executors.worker",
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
