"""Jobs in threads: for blocking libraries. Coroutine jobs share one loop beside the service's."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.core.database import Database
from app.core.executors.asyncio_ import run_coroutine
from app.core.executors.protocol import Call, Ended, describe, timed_out, unawaited
from app.core.scheduling.declaration import Job

if TYPE_CHECKING:
    from app.settings import Settings


_PATIENCE = 1.0


class ThreadpoolExecutor:
    """A thread for each run, at most MAX_WORKERS; daemons: none can keep the process alive."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.slots = settings.max_workers
        self._settings = settings
        self._database = database
        self._side_loop: asyncio.AbstractEventLoop | None = None

    def refuses(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        return None

    async def execute(self, call: Call) -> Ended:
        if call.job.is_async:
            return await self._on_side_loop(call)
        return await self._in_thread(call)

    async def _in_thread(self, call: Call) -> Ended:
        body = call.job.bind(call.run(self._settings, self._database), call.args, call.kwargs)

        def work() -> Ended:
            with call.logging():
                try:
                    unawaited(body())
                except BaseException as error:
                    return Ended("failed", describe(error))
            return Ended("succeeded")

        ended = _start_thread(work, f"job-{call.key}")
        try:
            done, _ = await asyncio.wait({ended}, timeout=call.job.timeout)
        except asyncio.CancelledError:
            return Ended("cancelled", "a thread cannot be ended; it runs on", still_running=ended)
        if not done:
            return Ended("timed_out", timed_out(call.job), still_running=ended)
        return ended.result()

    async def _on_side_loop(self, call: Call) -> Ended:
        if self._side_loop is None:
            self._side_loop = asyncio.new_event_loop()
            threading.Thread(target=self._side_loop.run_forever, name="jobs", daemon=True).start()
        coroutine = run_coroutine(call, self._settings, self._database)
        ended = asyncio.run_coroutine_threadsafe(coroutine, self._side_loop)
        waiting = asyncio.wrap_future(ended)
        limit = call.job.timeout and call.job.timeout + _PATIENCE
        try:
            done, _ = await asyncio.wait({waiting}, timeout=limit)
            if not done:  # it blocks that loop, so its own time-out was not heard
                return Ended("timed_out", timed_out(call.job), still_running=waiting)
        except asyncio.CancelledError:
            self._side_loop.call_soon_threadsafe(_cancel, self._side_loop, coroutine)
            done, _ = await asyncio.wait({waiting}, timeout=_PATIENCE)
            if not done:
                return Ended("cancelled", "it does not heed it; it runs on", still_running=waiting)
        return waiting.result()

    async def close(self) -> None:
        if self._side_loop is not None:
            loop, self._side_loop = self._side_loop, None
            closed = threading.Event()
            loop.call_soon_threadsafe(_close, loop, self._database, closed)
            # A job may block that loop for ever; it is a daemon, and ends with the process.
            await asyncio.to_thread(closed.wait, _PATIENCE)


def _close(loop: asyncio.AbstractEventLoop, database: Database, closed: threading.Event) -> None:
    def end(_: object) -> None:
        loop.stop()
        closed.set()

    loop.create_task(database.close()).add_done_callback(end)


def _cancel(loop: asyncio.AbstractEventLoop, coroutine: Any) -> None:
    for task in asyncio.all_tasks(loop):
        if task.get_coro() is coroutine:
            task.cancel()


def _start_thread(work: Callable[[], Ended], name: str) -> asyncio.Future[Ended]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended] = loop.create_future()

    def tell(result: Ended) -> None:
        if not ended.done():
            ended.set_result(result)

    def target() -> None:
        result = contextvars.copy_context().run(work)
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=target, name=name, daemon=True).start()
    return ended
