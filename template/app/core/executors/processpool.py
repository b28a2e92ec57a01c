"""Jobs in worker processes: for work that computes. Ending one process hurts one run."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from app.core.database import Database
from app.core.executors.protocol import Call, Ended, describe, timed_out
from app.core.scheduling.declaration import Job

if TYPE_CHECKING:
    from app.settings import Settings

_LENGTH = struct.Struct("!I")
_LONGEST_START = 60.0
_GONE = (asyncio.IncompleteReadError, ConnectionError)
# First of all stdin and stdout are put aside for the messages: what the service's modules or a job
# print, or a program that a job starts reads, must not get in between.
_BOOT = """
import os
calls, answers = os.dup(0), os.dup(1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
from app.core.executors.worker import main
main(calls, answers)
"""


class ProcesspoolExecutor:
    """MAX_WORKERS processes, each started when it is first needed and leased to one run at a time.

    What goes through their pipes is pickled; the pipes are this process's own, on this machine.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.slots = settings.max_workers
        self._settings = settings
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

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
            worker = await self._start() if fresh else self._idle.pop()
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

    async def _start(self) -> _Worker:
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
        self._exited = asyncio.ensure_future(process.wait())
        self.alive = True

    def send(self, message: bytes) -> None:
        self._to.write(_LENGTH.pack(len(message)) + message)

    async def run(self, message: bytes, job: Job) -> Ended | None:
        """How it ended; None if the process was gone before the job began."""
        self.send(message)
        begun = False
        try:
            async with asyncio.timeout(_LONGEST_START):
                await self._receive()
            begun = True
            async with asyncio.timeout(job.timeout):  # counts from here
                ended: Ended = await self._receive()
                return ended
        except TimeoutError:
            await self.kill()
            return Ended("timed_out", timed_out(job)) if begun else None
        except _GONE:
            code = await self.kill()
            if not begun:
                return None
            return Ended("failed", f"its worker process ended with exit code {code} in mid-run")

    async def _receive(self) -> Any:
        (length,) = _LENGTH.unpack(await self._read(_LENGTH.size))
        return pickle.loads(await self._read(length))

    async def _read(self, size: int) -> bytes:
        """Also ends with the process: a child of its own may hold the pipe open."""
        reading = asyncio.ensure_future(self._from.readexactly(size))
        try:
            await asyncio.wait({reading, self._exited}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # what it wrote before it ended is read first
                await asyncio.wait({reading}, timeout=0.1)
            if not reading.done():
                raise ConnectionResetError
            return reading.result()
        finally:
            reading.cancel()

    async def kill(self) -> int:
        """End the process and all that it has started; returns its exit code."""
        self.alive = False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._to.close()
        return await self._exited


async def _spawn() -> Process:
    # Its own session: Ctrl-C in a terminal goes to the service, which decides about its workers;
    # and what a job starts belongs to it, and is ended with it.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _BOOT,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
