"""`lock("name")`: for what the lock of a job does not protect, two jobs or a job and a route."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from app.core.tasks import apart

_log = logging.getLogger(__name__)
_PATIENCE = 10.0


class LockNotAcquired(RuntimeError):
    """Somebody else held the lock for as long as we were ready to wait."""


class NamedLocks(Protocol):
    """Named locks on one backend. Each call is atomic there, and short."""

    lease: float
    """Seconds after which the lock of a holder that has fallen silent is free."""

    def acquire(self, name: str, lease: float) -> int | None:
        """A fence if it was free or its lease is over, else None."""

    def renew(self, name: str, fence: int, lease: float) -> bool:
        """Hold it for another lease; False if it is not ours any more."""

    def release(self, name: str, fence: int) -> None:
        """Free it, if it is still ours."""

    def close(self) -> None:
        """Close the connections."""


class lock:
    """Hold a lock by this name, over all replicas, with `async with` or `with`.

    Waits up to `wait` seconds, then raises `LockNotAcquired`; `TimeoutError` if the lock backend
    gives no answer at all for 10 seconds. Renewed while held; once the holder is silent for `lease`
    seconds (default LEASE_SECONDS) anybody may have it. `fence` only grows from holder to holder:
    hand it to a system that can refuse an older one. `lost` says that it went to somebody else
    while we held it, after a freeze for instance.
    """

    fence: int
    lost = False

    def __init__(self, name: str, wait: float = 0, lease: float | None = None) -> None:
        if not name or len(name) > 200:
            raise ValueError(f"lock({name!r}): a name of 1 to 200 characters; for example 'import'")
        self.name = name
        self._wait = wait
        self._locks = current()
        self._lease = lease or self._locks.lease
        self._released = threading.Event()

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._wait
        while not self._acquired(self._ask(), deadline):
            time.sleep(_pause())
        return self

    async def __aenter__(self) -> Self:
        deadline = time.monotonic() + self._wait
        while not self._acquired(await self._ask_async(), deadline):
            await asyncio.sleep(_pause())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        try:
            apart(lambda: self._locks.release(self.name, self.fence)).result(_PATIENCE)
        except Exception:
            _log.warning("lock %r is free only when its lease is over", self.name, exc_info=True)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.__exit__, kind, error, trace))

    def _acquire(self) -> Future[int | None]:
        return apart(lambda: self._locks.acquire(self.name, self._lease))

    def _ask(self) -> int | None:
        with self._giving_back(asked := self._acquire()):
            return asked.result(_PATIENCE)

    async def _ask_async(self) -> int | None:
        with self._giving_back(asked := self._acquire()):
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.shield(asyncio.wrap_future(asked))

    @contextmanager
    def _giving_back(self, asked: Future[int | None]) -> Iterator[None]:
        """If nobody waits for it any more, what it comes to is given back."""

        def give_back(answered: Future[int | None]) -> None:
            if answered.exception() is None and (fence := answered.result()) is not None:
                self._locks.release(self.name, fence)

        try:
            yield
        except BaseException as error:
            silent = isinstance(error, TimeoutError) and not asked.done()
            asked.add_done_callback(give_back)
            if silent:
                raise TimeoutError(
                    f"lock {self.name!r}: the lock backend gave no answer within {_PATIENCE:g} s"
                ) from None
            raise

    def _acquired(self, fence: int | None, deadline: float) -> bool:
        if fence is not None:
            self.fence = fence
            threading.Thread(target=self._renew, name=f"lock-{self.name}", daemon=True).start()
            return True
        if time.monotonic() >= deadline:
            raise LockNotAcquired(f"lock {self.name!r} is held elsewhere, after {self._wait:g} s")
        return False

    def _renew(self) -> None:
        """In a thread of its own: a busy event loop, or a `def` job, must not lose the lock."""
        while not self._released.wait(self._lease / 3):
            try:
                renewed = self._locks.renew(self.name, self.fence, self._lease)
            except Exception:
                _log.warning("lock %r could not be renewed; trying again", self.name, exc_info=True)
                continue
            if not renewed and not self._released.is_set():
                self.lost = True
                _log.error("lock %r was lost: its holder was silent for too long", self.name)
                return


def _pause() -> float:
    return random.uniform(0.02, 0.1)


_current: NamedLocks | None = None


def use(locks: NamedLocks | None) -> None:
    """Make these the named locks of the process: the lifespan and each worker say so once."""
    global _current
    _current = locks


def current() -> NamedLocks:
    """The named locks of this process. Raises `RuntimeError` where nothing has been started."""
    if _current is None:
        raise RuntimeError("lock() needs a started service: no lock backend is open here")
    return _current
