"""Tasks that end for certain, and work that does not hold the event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
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
