"""Redis or Valkey: one pool for each server, every call bounded, every change one script."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import redis
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

_TIMEOUT = 2.0
# A connection that the server closed while it was idle is opened once more; redis-py's own ten
# attempts held the caller for 59 s while the server was frozen.
_ATTEMPTS = 1


class RedisUnavailable(ConnectionError):
    """The server does not answer, or refuses; the message names the setting that says where."""


def redis_url(variable: str, value: SecretStr) -> SecretStr:
    """The URL, if it is one of Redis. Raises `ValueError`, without a word of it."""
    try:
        redis.ConnectionPool.from_url(value.get_secret_value())
    except ValueError:
        raise ValueError(
            f"must be the URL of a Redis or Valkey server; for example "
            f"{variable}=redis://:password@host:6379/0"
        ) from None
    return value


class RedisServer:
    """One server, opened on first use. Its keys share a prefix with a hash tag: a cluster works."""

    def __init__(self, variable: str, url: SecretStr, service: str) -> None:
        self.prefix = "{" + service + "}:"
        self._variable = variable
        self._url = url.get_secret_value()
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()

    async def run(self, script: str, keys: Sequence[str], *arguments: object) -> Any:
        """Run a Lua script; its keys are given without the prefix. Raises `RedisUnavailable`."""
        loop = asyncio.get_running_loop()
        if loop not in self._of_loops:
            retry = AsyncRetry(NoBackoff(), _ATTEMPTS)
            self._of_loops[loop] = Redis.from_url(self._url, retry=retry, **self._options)
        with self._answering():
            return await self._of_loops[loop].register_script(script)(
                self._keys(keys), list(map(str, arguments))
            )

    def run_sync(self, script: str, keys: Sequence[str], *arguments: object) -> Any:
        """The same for synchronous code, in any thread."""
        with self._answering():
            return self._client.register_script(script)(self._keys(keys), list(map(str, arguments)))

    @cached_property
    def _client(self) -> redis.Redis:
        retry = Retry(NoBackoff(), _ATTEMPTS)
        return redis.Redis.from_url(self._url, retry=retry, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        timeouts = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        return {"decode_responses": True, **timeouts}

    def _keys(self, names: Sequence[str]) -> list[str]:
        return [self.prefix + name for name in names]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise RedisUnavailable(f"the server of {self._variable}: {error}") from error

    async def close(self) -> None:
        """Close the running loop's connections."""
        if client := self._of_loops.pop(asyncio.get_running_loop(), None):
            await client.aclose()

    def close_sync(self) -> None:
        """Close those of synchronous code."""
        if client := self.__dict__.pop("_client", None):
            client.close()
