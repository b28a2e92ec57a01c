"""Ending asyncio tasks for certain."""

import asyncio
from typing import Any

_PATIENCE = 0.5


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them and wait until they have ended; never raises what they raise.

    Cancels again what goes on: on Python 3.11, redis-py swallows one cancellation in twenty.
    """
    while waits := {task for task in tasks if task is not None and not task.done()}:
        for task in waits:
            task.cancel()
        await asyncio.wait(waits, timeout=_PATIENCE)
