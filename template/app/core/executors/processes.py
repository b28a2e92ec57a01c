"""The service's side of its worker processes, and of the nursery that they are forked off."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from contextlib import suppress
from typing import Any

from app.core.executors.protocol import Ended, timed_out
from app.core.executors.wire import BORN, LENGTH, NEWS, ORDER, end
from app.core.scheduling.declaration import Job

_LONGEST_START = 60.0
_LONGEST_END = 5.0
_GONE = (asyncio.IncompleteReadError, ConnectionError)
# A fork of macOS's own libraries is not safe, even of one thread.
_FORKS = sys.platform != "darwin"
_BOOT = "import sys; from app.core.executors.nursery import main; main(int(sys.argv[1]), {forks})"


class Nursery:
    """The process that the workers are forked off. Should it die, so do they."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._births: deque[asyncio.Future[tuple[int, asyncio.Future[int]]]] = deque()
        self._deaths: dict[int, asyncio.Future[int]] = {}
        self.alive = True
        self._hearing = asyncio.create_task(self._hear())

    @classmethod
    async def begin(cls) -> Nursery:
        # Its own session: Ctrl-C in a terminal goes to the service, which decides about its
        # workers. And no job's output must get in between what others read from the service.
        control, theirs = socket.socketpair()
        control.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _BOOT.format(forks=_FORKS), str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        return cls(process, control)

    async def worker(self) -> Worker:
        """Raises `ConnectionError` or `TimeoutError` if there is none to be had."""
        born: asyncio.Future[tuple[int, asyncio.Future[int]]]
        born = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [ORDER], [theirs.fileno()])
            self._births.append(born)
            async with asyncio.timeout(_LONGEST_START):
                pid, died = await born
            return Worker(pid, died, *await asyncio.open_connection(sock=ours))
        except BaseException:
            ours.close()  # if it was born, it ends by that
            raise

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        heard = b""
        try:
            with suppress(ConnectionError):
                while more := await loop.sock_recv(self._control, 1 << 16):
                    heard += more
                    while len(heard) >= NEWS.size:
                        self._told(*NEWS.unpack_from(heard))
                        heard = heard[NEWS.size :]
        finally:
            self.alive = False
            self._control.close()
            for born in self._births:
                if not born.done():
                    born.set_exception(ConnectionResetError("the log says why"))
            for pid, died in self._deaths.items():
                end(pid)
                died.set_result(-signal.SIGKILL)

    def _told(self, pid: int, code: int) -> None:
        if code != BORN:
            self._deaths.pop(pid).set_result(code)
            return
        died = self._deaths[pid] = asyncio.get_running_loop().create_future()
        born = self._births.popleft()
        if not born.done():  # else nobody waits for it any more
            born.set_result((pid, died))

    async def close(self) -> None:
        self._hearing.cancel()
        await asyncio.wait({self._hearing})
        self._control.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_END):
                await self._process.wait()
                return
        self._process.kill()
        await self._process.wait()


class Worker:
    """One process. It ends by itself when its socket closes, that is when this process has gone."""

    def __init__(
        self,
        pid: int,
        died: asyncio.Future[int],
        answers: asyncio.StreamReader,
        calls: asyncio.StreamWriter,
    ) -> None:
        self._pid = pid
        self._died = died
        self._to, self._from = calls, answers
        self.alive = True

    def send(self, message: bytes) -> None:
        self._to.write(LENGTH.pack(len(message)) + message)

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
        (length,) = LENGTH.unpack(await self._read(LENGTH.size))
        return pickle.loads(await self._read(length))

    async def _read(self, size: int) -> bytes:
        """Also ends with the process: a child of its own may hold the socket open."""
        reading = asyncio.ensure_future(self._from.readexactly(size))
        either: set[asyncio.Future[Any]] = {reading, self._died}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # what it wrote before it ended is read first
                await asyncio.wait({reading}, timeout=0.1)
            if not reading.done():
                raise ConnectionResetError
            return reading.result()
        finally:
            reading.cancel()

    async def kill(self) -> int | str:
        """End the process and all that it has started; returns its exit code."""
        self.alive = False
        if not self._died.done():
            end(self._pid)
        self._to.close()
        await asyncio.wait({self._died}, timeout=_LONGEST_END)
        return self._died.result() if self._died.done() else "unknown"
