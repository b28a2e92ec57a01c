"""Procrastinate's way to a database that may be away for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, LiteralString, TypeVar

from procrastinate import PsycopgConnector
from procrastinate.connector import Notify
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError
from psycopg_pool import AsyncConnectionPool

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_TIMEOUT = 5.0  # psycopg takes ten more to give up a query that a frozen server holds
_RETRY = 1.0
_POOL: dict[str, Any] = {
    "kwargs": {"connect_timeout": 5, "tcp_user_timeout": 10_000},
    "min_size": 1,
    "max_size": 3,
    "timeout": 2.0,  # of one attempt; so long does a stop wait for a database that is away
    "reconnect_timeout": 2.0,
    "check": AsyncConnectionPool.check_connection,
}


class PatientConnector(PsycopgConnector):
    """Asks again until `stopping`: Procrastinate's worker takes its first error for its end, and
    gives up its heartbeat and its wake-up without a word.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    @asynccontextmanager
    async def connected(self, url: str) -> AsyncIterator[None]:
        """Does not wait for the first connection."""
        async with AsyncConnectionPool(url, open=False, **_POOL) as pool:
            await self.open_async(pool)
            yield

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        try:
            await self._patiently(super().execute_query_async, query, arguments)
        except (ConnectorException, TimeoutError) as error:
            # That something has ended; nobody is there to hear that it was not noted.
            _log.warning("not noted by Procrastinate: %r", error.__cause__ or error)

    async def execute_query_one_async(
        self, query: LiteralString, **arguments: Any
    ) -> dict[str, Any]:
        return await self._patiently(super().execute_query_one_async, query, arguments)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        # A cancellation that meets the loss of the connection is heard as that loss alone.
        while not self._stopping.is_set():
            with suppress(ConnectorException):
                await super().listen_notify(on_notification, channels)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY)

    async def _patiently(
        self, ask: Callable[..., Awaitable[_T]], query: LiteralString, arguments: dict[str, Any]
    ) -> _T:
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    return await ask(query, **arguments)
            except (ConnectorException, TimeoutError) as error:
                away = isinstance(error, TimeoutError) or isinstance(
                    error.__cause__, OperationalError
                )
                if self._stopping.is_set() or not away:
                    raise
                _log.warning("the database does not answer: %r", error.__cause__ or error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY)
