"""Jobs on other machines, through taskiq: its broker is made in `app/broker.py`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from pydantic import SecretStr, field_validator
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from taskiq import AckableMessage, AsyncBroker
from taskiq.acks import AcknowledgeType
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.kicker import AsyncKicker
from taskiq.receiver import Receiver

from app import broker
from app.core.database import Database
from app.core.executors.engine import Engine, Handle, Message, message_id
from app.core.settings import ServiceSettings, on_this_machine

_log = logging.getLogger(__name__)
_TASK = "run"
_TIMEOUT = 5.0
_RETRY = 1.0


class EngineSettings(ServiceSettings):
    broker_url: SecretStr = on_this_machine("redis://127.0.0.1:6379/2")

    @field_validator("broker_url")
    @classmethod
    def _suits_the_broker(cls, value: SecretStr) -> SecretStr:
        try:
            _broker(value, cls.service_name)
        except ValueError:  # it may quote a part of the password
            raise ValueError(
                "must be a URL that app/broker.py can use; "
                "for example BROKER_URL=redis://:password@host:6379/0"
            ) from None
        return value


def engine(settings: EngineSettings, database: Database) -> Engine:
    logging.getLogger("taskiq").setLevel(logging.WARNING)  # else two lines for every message
    return _Taskiq(_broker(settings.broker_url, settings.service_name))


def _broker(url: SecretStr, service: str) -> AsyncBroker:
    made = broker.broker(url.get_secret_value(), "{" + service + "}:runs")
    return made.with_formatter(JSONFormatter())  # whatever it had: nothing is unpickled


class _Taskiq:
    name = "taskiq"

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self._well = False

    async def open(self) -> None:
        if self._well:  # some brokers connect once more each time
            return
        async with _answering():
            await self._broker.startup()
        self._well = True

    async def check(self) -> None:
        # taskiq has no question for a broker: it is well until it fails.
        await self.open()

    async def close(self) -> None:
        await self._broker.shutdown()

    async def enqueue(self, connection: AsyncConnection, messages: Sequence[Message]) -> None:
        """A broker knows nothing of the transaction."""

    async def committed(self, messages: Sequence[Message]) -> None:
        try:
            async with _answering():
                for message in messages:
                    kicker: AsyncKicker[[str], None] = AsyncKicker(_TASK, self._broker, {})
                    await kicker.with_task_id(message_id(message)).kiq(json.dumps(dict(message)))
        except ConnectionError:
            self._well = False
            raise

    async def serve(self, slots: int, handle: Handle, stopping: asyncio.Event) -> None:
        async def run(message: str) -> None:
            await handle(json.loads(message))

        self._broker.register_task(run, _TASK)
        running: set[asyncio.Task[None]] = set()
        receiving = asyncio.create_task(self._receive(slots, running))
        try:
            await stopping.wait()
        finally:
            while not receiving.done():
                receiving.cancel()  # on Python 3.11, redis-py swallows one in twenty
                await asyncio.wait({receiving}, timeout=0.1)
            await asyncio.wait({receiving, *running})

    async def _receive(self, slots: int, running: set[asyncio.Task[None]]) -> None:
        """Not `Receiver.listen()`: a broker that goes away makes it forget what is running."""
        receiver = Receiver(self._broker, max_async_tasks=1, ack_type=AcknowledgeType.WHEN_EXECUTED)
        while True:
            await _free_slot(running, slots)
            try:
                await self.open()
                async with aclosing(self._broker.listen()) as arriving:
                    async for message in arriving:
                        running.add(asyncio.create_task(_run(receiver, message)))
                        await _free_slot(running, slots)
            except Exception as error:  # each broker has its own
                self._well = False
                _log.warning("the broker does not answer: %r", error)
            await asyncio.sleep(_RETRY)


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            yield
    except Exception as error:  # each broker has its own
        why = error.__cause__ or error
        raise ConnectionError(f"the broker of BROKER_URL does not answer: {why!r}") from error


async def _free_slot(running: set[asyncio.Task[None]], slots: int) -> None:
    while len(running) >= slots:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running.difference_update(done)


async def _run(receiver: Receiver, message: bytes | AckableMessage) -> None:
    try:
        await receiver.callback(message)
    except Exception as error:
        _log.warning("a message was handled, but not acknowledged: %r", error)


def pending(connection: Connection) -> list[str]:
    """The broker has no tables."""
    return []


def migrate(connection: Connection) -> None:
    """Nor anything to migrate."""
