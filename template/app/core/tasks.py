"""Tasks that end for certain, and work that does not hold the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 6.0
"""Seconds: longer than a call to the database takes to be given up. A second cancellation before
that would leave its connection behind, with the transaction that it was about to open."""
_SLICE = 0.004


async def unhurried(items: Iterable[T]) -> AsyncIterator[T]:
    """Go through much in slices of 4 ms: whatever else the loop has to do comes in between."""
    began = perf_counter()
    for item in items:
        yield item
        if perf_counter() - began > _SLICE:
            await asyncio.sleep(0)
            began = perf_counter()


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them and wait until they have ended; never raises what they raise.

    Cancels again what goes on: on Python 3.11, redis-py swallows one cancellation in twenty.
    """
    while waits := {task for task in tasks if task is not None and not task.done()}:
        for task in waits:
            task.cancel()
        await asyncio.wait(waits, timeout=_PATIENCE)


async def end_between(lock: asyncio.Lock, *tasks: asyncio.Task[Any] | None) -> None:
    """End them while they wait, not in the calls that they make under the lock, if these are brief.

    A call that is cut off is cleaned up after, or swallows that it was.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE / 2), lock:
            await end(*tasks)
    await end(*tasks)


def apart(function: Callable[[], T]) -> Future[T]:
    """In a thread of its own: a call to a server that is frozen returns when that thaws."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="apart", daemon=True).start()
    return answer
