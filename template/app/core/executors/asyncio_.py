"""Coroutine jobs on the service's own event loop: for work that waits, not work that computes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Generator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from app.core.database import Database
from app.core.executors.protocol import Call, Ended, ExecutorBackend, describe, timed_out
from app.core.scheduling.declaration import Job

if TYPE_CHECKING:
    from app.settings import Settings

_log = logging.getLogger(__name__)
_LONGEST_STEP = 0.2


class AsyncioExecutor:
    """`def` jobs go to `threads`: they would stop the web part."""

    slots = 100

    def __init__(self, settings: Settings, database: Database, threads: ExecutorBackend) -> None:
        self._settings = settings
        self._database = database
        self._threads = threads

    def refuses(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        return None

    async def execute(self, call: Call) -> Ended:
        if not call.job.is_async:
            return await self._threads.execute(call)
        return await run_coroutine(call, self._settings, self._database)

    async def close(self) -> None:
        """The runner has ended every task."""


async def run_coroutine(call: Call, settings: Settings, database: Database) -> Ended:
    """Run a coroutine job on the running loop; time-out and cancellation are cooperative."""
    body = call.job.bind(call.run(settings, database), call.args, call.kwargs)
    timeout = asyncio.timeout(call.job.timeout)
    with call.logging():
        try:
            async with timeout:
                await _Watched(body(), call.key)
        except asyncio.CancelledError:
            return Ended("cancelled", "cancelled before it ended")
        except GeneratorExit:
            raise
        except BaseException as error:  # SystemExit and its like would end the whole loop
            if timeout.expired() and isinstance(error, TimeoutError):
                return Ended("timed_out", timed_out(call.job))
            return Ended("failed", describe(error))
    return Ended("succeeded")


class _Watched:
    """Awaits a coroutine, and names it in a warning when it holds the loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self._coroutine = coroutine
        self._name = name

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step, value = steps.send, None
        argument: Any = value
        while True:
            started = perf_counter()
            try:
                waits_for = step(argument)
            except StopIteration as result:
                return result.value
            finally:
                self._judge(perf_counter() - started)
            try:
                step, argument = steps.send, (yield waits_for)
            except BaseException as error:
                step, argument = steps.throw, error

    def _judge(self, seconds: float) -> None:
        if seconds > _LONGEST_STEP:
            _log.warning(
                "%s held the event loop for %.1f s: nothing else was served. Await more often, or "
                "declare it with executor='processpool'",
                self._name,
                seconds,
            )
