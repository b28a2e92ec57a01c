"""What a distributed engine offers: it carries claimed fires to worker processes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.scheduling.answers import Message

__all__ = ["Engine", "Handle", "Message", "message_id"]
Handle = Callable[[Message], Awaitable[None]]


class Engine(Protocol):
    """Carries messages, at least once or not at all: the ledger makes up for either."""

    name: str

    async def open(self) -> None:
        """Connect. Raises what the broker raises, and may be called again then."""

    async def check(self) -> None:
        """Raises what the broker raises, if it is known to be away."""

    async def close(self) -> None:
        """Close what is open."""

    async def enqueue(self, connection: AsyncConnection, messages: Sequence[Message]) -> None:
        """Send within the transaction that claims, if the engine can; else nothing."""

    async def committed(self, messages: Sequence[Message]) -> None:
        """Send what could not be sent within the transaction. Bounded; raises if it fails."""

    async def serve(self, slots: int, handle: Handle, stopping: asyncio.Event) -> None:
        """Hand over each message that arrives, `slots` at a time, until `stopping` is set.

        Acknowledges a message when its `handle` returns, and returns after the last has. Waits
        for a broker that is away. Installs no signal handlers.
        """


def message_id(message: Message) -> str:
    """Names a fire: sent twice, it is still one message where the engine can tell."""
    return f"{message['key']}@{message['fire_time']}"
