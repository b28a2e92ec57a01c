"""No lock server: one process schedules, and makes sure that it is the only one."""

import asyncio
import fcntl
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from app.core.database import Database
from app.core.databases import AlreadyScheduling
from app.core.logging import in_words
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.named_lock import NamedLocks
from app.core.settings import ServiceSettings
from app.core.tasks import apart, end

_log = logging.getLogger(__name__)
WATCH = 1.0
PATIENCE = 3.0
T = TypeVar("T")


class LockSettings(ServiceSettings):
    """LEASE_SECONDS is all."""


def ledger(settings: LockSettings, database: Database, replica: str) -> Ledger:
    """Claims that never expire while this process lives."""
    window, patience = settings.catch_up_seconds, settings.lease_seconds
    return Ledger(database, replica, None, window, patience)


class _Guard:
    """Keeps other processes from scheduling; who waits for a frozen server waits for so long."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stack = ExitStack()
        self._alone: Callable[[], bool] = lambda: False

    async def enter(self) -> None:
        stack = ExitStack()
        asked = apart(lambda: _enter(self._ledger, stack))
        try:
            self._alone = await _answer(asked)
        except BaseException:  # it may yet be let in
            asked.add_done_callback(lambda _: apart(stack.close))
            raise
        self._stack = stack
        await self._ledger.disown_others()

    async def holds(self) -> bool:
        try:
            return await _answer(apart(self._alone))
        except TimeoutError:
            return False

    async def leave(self) -> None:
        stack, self._stack = self._stack, ExitStack()
        with suppress(TimeoutError):
            await _answer(apart(stack.close))


@asynccontextmanager
async def claiming(ledger: Ledger) -> AsyncIterator[None]:
    """Be the only process that makes claims. Raises `AlreadyScheduling`.

    What an earlier process left running is free at once: nobody else can be running it.
    """
    guard = _Guard(ledger)
    try:
        await guard.enter()
        await ledger.raise_fences()
        watching = asyncio.create_task(_stay_alone(ledger, guard), name="only-scheduler")
        try:
            yield
        finally:
            await end(watching)
    finally:
        await guard.leave()


async def _stay_alone(ledger: Ledger, guard: _Guard) -> None:
    """Make no claims while it is not certain that nobody else does."""
    while True:
        await asyncio.sleep(WATCH)
        if not ledger.suspended and await guard.holds():
            continue
        ledger.suspended = True
        _log.error("no longer sure to be the only scheduling process; claims wait until it is")
        try:
            await guard.leave()
            await guard.enter()
            ledger.suspended = False
        except Exception as error:
            _log.error("still not the only scheduling process: %s", in_words(error))


async def _answer(asked: Future[T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.shield(asyncio.wrap_future(asked))


def _enter(ledger: Ledger, guard: ExitStack) -> Callable[[], bool]:
    database = ledger.database
    try:
        return guard.enter_context(database.dialect.only_scheduler(database.engine))
    except AlreadyScheduling as error:
        raise AlreadyScheduling(
            f"another process schedules the jobs of {error} already, and this service was "
            "made with lock_backend=memory, which allows one. Start this one with "
            "SCHEDULER_ENABLED=false, or run `copier update --data lock_backend=database`"
        ) from None


def named_locks(settings: LockSettings, database: Database) -> NamedLocks:
    return _FileLocks(database)


class _FileLocks:
    """Locked files: they exclude the processes of this host and user, and die with the holder."""

    def __init__(self, database: Database) -> None:
        self.lease = database.settings.lease_seconds
        where = hashlib.sha256(database.settings.database_url.get_secret_value().encode())
        self._folder = Path(tempfile.gettempdir()) / f"locks-{os.getuid()}-{where.hexdigest()[:16]}"
        self._held: dict[tuple[str, int], int] = {}
        self._guard = threading.Lock()

    def acquire(self, name: str, lease: float) -> int | None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to somebody else; remove it")
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return None
        # The folder is emptied at a reboot: the clock keeps the fence growing over that.
        fence = max(int(os.pread(file, 20, 0) or b"0") + 1, time.time_ns() // 1000)
        os.pwrite(file, str(fence).encode(), 0)
        with self._guard:
            self._held[name, fence] = file
        return fence

    def renew(self, name: str, fence: int, lease: float) -> bool:
        return (name, fence) in self._held

    def release(self, name: str, fence: int) -> None:
        with self._guard:
            file = self._held.pop((name, fence), None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Each file is closed by its holder."""
