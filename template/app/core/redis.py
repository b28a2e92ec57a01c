"""Redis or Valkey: one pool for each server, every call bounded, every change one script."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import redis
from pydantic import SecretStr
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisClusterException, RedisError
from redis.retry import Retry

_TIMEOUT = 2.0
_NO_URL = (TypeError, ValueError)
_FAILED = (RedisError, RedisClusterException)
# A connection that the server closed while it was idle is opened once more; redis-py's own ten
# attempts held the caller for 59 s while the server was frozen.
_ATTEMPTS = 1


SERVER = """
local function server()
  local told = redis.pcall('INFO', 'server')
  return type(told) == 'string' and string.match(told, 'run_id:(%w+)') or ''
end
"""
"""For scripts: which run of which server this is; nothing for who may not ask."""


class RedisUnavailable(ConnectionError):
    """The server does not answer, or refuses; the message names the setting that says where."""


def redis_url(variable: str, value: SecretStr) -> SecretStr:
    """The URL, if it is one of Redis. Raises `ValueError`, without a word of it."""
    try:
        redis.ConnectionPool.from_url(url := value.get_secret_value()).make_connection()
        if url.startswith("redis"):
            int(urlsplit(url).path.strip("/") or 0)  # redis-py takes any other word for 0
    except _NO_URL:
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
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis | RedisCluster]
        self._of_loops = WeakKeyDictionary()
        self._sync: redis.Redis | redis.RedisCluster | None = None

    async def run(self, script: str, keys: Sequence[str], *arguments: object) -> Any:
        """Run a Lua script; its keys are given without the prefix. Raises `RedisUnavailable`."""
        loop, given = asyncio.get_running_loop(), (self._keys(keys), list(map(str, arguments)))
        options = {"retry": AsyncRetry(NoBackoff(), _ATTEMPTS), **self._options}
        if loop not in self._of_loops:
            self._of_loops[loop] = Redis.from_url(self._url, **options)
        with self._answering():
            try:
                return await self._of_loops[loop].register_script(script)(*given)
            except MovedError:  # it is one of a cluster
                await self._of_loops[loop].aclose()
                self._of_loops[loop] = RedisCluster.from_url(self._url, **options)
            return await self._of_loops[loop].register_script(script)(*given)

    def run_sync(self, script: str, keys: Sequence[str], *arguments: object) -> Any:
        """The same for synchronous code, in any thread."""
        given = self._keys(keys), list(map(str, arguments))
        options = {"retry": Retry(NoBackoff(), _ATTEMPTS), **self._options}
        if self._sync is None:
            self._sync = redis.Redis.from_url(self._url, **options)
        with self._answering():
            try:
                return self._sync.register_script(script)(*given)
            except MovedError:
                self._sync.close()
                self._sync = redis.RedisCluster.from_url(self._url, **options)
            return self._sync.register_script(script)(*given)

    @property
    def _options(self) -> dict[str, Any]:
        timeouts = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        # What somebody else has written need not be text.
        return {"decode_responses": True, "encoding_errors": "backslashreplace", **timeouts}

    def _keys(self, names: Sequence[str]) -> list[str]:
        return [self.prefix + name for name in names]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except _FAILED as error:
            raise RedisUnavailable(f"the server of {self._variable}: {error}") from error

    async def close(self) -> None:
        """Close the running loop's connections."""
        if client := self._of_loops.pop(asyncio.get_running_loop(), None):
            await client.aclose()

    def close_sync(self) -> None:
        """Close those of synchronous code."""
        if self._sync is not None:
            self._sync.close()
            self._sync = None
