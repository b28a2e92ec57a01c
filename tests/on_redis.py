"""`make test-redis`: the suites of the variants that use Redis, on Redis itself.

`make test` runs them on Valkey, which comes from a wheel; this needs a `redis-server` on the PATH.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import Render
from tests.test_variants import PYTEST, postgresql, run
from tests.variants import Answers, name_of

__all__ = ["postgresql"]
VARIANTS: list[Answers] = [
    {"profile": "custom", "job_store": "redis", "lock_backend": "redis"},
    {"profile": "replicas-redis"},
    {"profile": "custom", "database": "postgresql", "executor": "taskiq", "lock_backend": "redis"},
]


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, without a database."""
    command = shutil.which("redis-server")
    assert command, "redis-server is not on the PATH; for example `apt-get install redis-server`"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
    with subprocess.Popen([command, *options], stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        url = f"redis://127.0.0.1:{port}"
        with Redis.from_url(url, decode_responses=True) as client:
            info = client.info("server")
        assert "valkey_version" not in info, f"{command} is Valkey, which `make test` uses"
        assert info["redis_version"].startswith("7."), f"{command}: {info['redis_version']}, not 7"
        yield url
        server.terminate()


@pytest.mark.parametrize("answers", VARIANTS, ids=name_of)
def test_its_own_suite_is_green_on_redis(
    fresh: Render, answers: Answers, redis: str, postgresql: str
) -> None:
    names = ("JOB_STORE_URL", "LOCK_URL", "BROKER_URL")
    urls = {name: f"{redis}/{number}" for number, name in enumerate(names)}
    folder: Path = fresh(**answers)
    if "postgresql" in (folder / ".copier-answers.yml").read_text(encoding="utf-8"):
        urls["DATABASE_URL"] = postgresql
    run(folder, answers, *PYTEST, **urls)
