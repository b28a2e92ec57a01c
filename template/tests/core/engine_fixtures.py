"""What the tests of engines are given: somebody who sends, somebody who handles, a way between."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from pydantic import SecretStr

from app.core import wiring
from app.core.database import Database
from app.core.executors.engine import Engine, Handle, Message
from app.settings import Settings
from tests.core.cable import Cable, cable
from tests.core.waiting import until

engines = importlib.import_module(f"app.core.executors.{wiring.DEFAULT_EXECUTOR}_")
# Where the engine's broker is: the database, unless there is a setting of its own for it.
BROKER = "broker_url" if "broker_url" in Settings.model_fields else "database_url"
Send = Callable[..., Awaitable[None]]
_instants = count(1_700_000_000_000_000)


def message(key: str = "job", **kwargs: Any) -> Message:
    return {"key": key, "job": "job", "kwargs": kwargs, "fire_time": next(_instants), "fence": 1}


class Worker:
    """Notes what it is handed, and holds each until it is let go."""

    def __init__(self) -> None:
        self.handled: list[Message] = []
        self.running = 0
        self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def handle(self, message: Message) -> None:
        self.handled.append(message)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1

    async def has(self, count: int) -> None:
        async def handed() -> bool:
            return len(self.handled) >= count

        await until(handed)

    async def ended(self) -> None:
        async def idle() -> bool:
            return self.running == 0

        await until(idle)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def sender(database: Database, settings: Settings) -> AsyncIterator[Engine]:
    """The engine as a scheduling process has it."""
    made: Engine = engines.engine(settings, database)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def send(sender: Engine, database: Database) -> Send:
    async def send(*messages: Message) -> None:
        async with database.writing() as connection:
            await sender.enqueue(connection, messages)
        await sender.committed(messages)

    return send


@asynccontextmanager
async def serving(
    settings: Settings, handle: Handle, slots: int = 2
) -> AsyncIterator[asyncio.Event]:
    """A worker's engine, with connections of its own. Set what it gives to stop it."""
    engine: Engine = engines.engine(settings, Database(settings, wiring.database.DIALECT))
    stopping = asyncio.Event()
    serve = asyncio.create_task(engine.serve(slots, handle, stopping))
    try:
        yield stopping
        assert not serve.done() or stopping.is_set()
    finally:
        stopping.set()
        await asyncio.wait_for(serve, 30)
        await engine.close()


def at(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={BROKER: SecretStr(url)})


@pytest.fixture
async def line(settings: Settings) -> AsyncIterator[Cable]:
    """Leads to the broker."""
    async with cable(getattr(settings, BROKER).get_secret_value()) as made:
        yield made
