"""The image: every instruction of its Dockerfile carried out, and what it holds started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.image import built
from tests.test_installing import with_simple_index
from tests.variants import DOMAINS

# Where packages come from is the machine's affair.
NETWORK = {
    name: value
    for name, value in os.environ.items()
    if re.match(r"(?i)(pip|uv|poetry|ssl|requests)_|.*_proxy$", name)
}


@pytest.mark.parametrize("package_manager", DOMAINS["package_manager"])
def test_an_image_serves_and_stops_as_an_engine_would_have_it(
    fresh: Render, package_manager: str
) -> None:
    """Read-only, as nobody in particular, as the first process; and SIGTERM ends it with 0."""
    folder = fresh(profile="custom", package_manager=package_manager)
    if package_manager == "poetry":
        with_simple_index(folder / "pyproject.toml")
    (folder / ".env").write_text("SECRET=1\n")
    with built(folder, NETWORK) as image:
        assert image.user == "10001:10001"
        assert sorted(path.name for path in (image.seen / "app").iterdir()) == [
            ".venv", "app", "migrations", "pyproject.toml"
        ]  # fmt: skip
        assert image.run("touch", "/app/x").returncode != 0, "its root is read-only"
        assert image.run(".venv/bin/python", "-c", "import pytest").returncode != 0
        port = free_port()
        command, health = (
            [w.replace("8000", port) for w in c] for c in (image.command, image.health)
        )
        assert image.run(*health).returncode == 1
        with subprocess.Popen(image.inside(*command, first=True), text=True) as process:
            try:
                until(lambda: image.run(*health).returncode == 0)
                assert (image.seen / "data/service.db").exists()
                os.kill(first_process(process), signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()
        assert image.run(*health).returncode == 1


def first_process(process: subprocess.Popen[str]) -> int:
    """The service itself, below what entered its root."""
    pid = process.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
        if "uvicorn" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1]:
            break
    return pid


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
