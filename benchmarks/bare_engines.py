"""An engine by itself: a task that notes when it ended, sent and run without anything of ours.

As a process, with the name of an engine and a file for the notes: its worker.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.settings import Settings

_NAME = "bare"
Send = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def sending(engine: str, given: Settings) -> AsyncIterator[Send]:
    if engine == "procrastinate":
        app = _procrastinate(given)
        async with app.open_async():
            yield app.configure_task(_NAME, queue=_NAME).defer_async
    else:
        from taskiq.kicker import AsyncKicker

        broker = _taskiq(given)
        await broker.startup()
        yield lambda: AsyncKicker(_NAME, broker, {}).kiq()
        await broker.shutdown()


async def work(engine: str, given: Settings, file: Path) -> None:
    async def note() -> None:
        with file.open("a") as notes:
            notes.write(f"{time.time()}\n")

    if engine == "procrastinate":
        app = _procrastinate(given)
        app.task(name=_NAME, queue=_NAME)(note)
        async with app.open_async():
            await app.run_worker_async(queues=[_NAME], concurrency=2)
    else:
        from taskiq.api import run_receiver_task

        broker = _taskiq(given)
        broker.register_task(note, _NAME)
        await run_receiver_task(broker, run_startup=True)


def _procrastinate(given: Settings) -> Any:
    from procrastinate import App, PsycopgConnector

    return App(connector=PsycopgConnector(conninfo=given.database_url.get_secret_value()))


def _taskiq(given: Settings) -> Any:
    from taskiq_redis import RedisStreamBroker

    url = given.model_dump()["broker_url"].get_secret_value()
    return RedisStreamBroker(url, queue_name=_NAME, consumer_group_name=_NAME)


if __name__ == "__main__":
    from app.settings import Settings

    asyncio.run(work(sys.argv[1], Settings.load(), Path(sys.argv[2])))
