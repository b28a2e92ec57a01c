"""Every block of shell and Python in a document is carried out, here as its reader would."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.servers import Valkey
from tests.conftest import commit, run
from tests.test_compose import free_port, ready, until
from tests.test_shipping import program
from tests.variants import ROOT

# Carried out in a service. The others are about the template, and carried out in its folder.
OF_SERVICES = {"docs/updating.md", "docs/switching.md"}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
# What is quick of `make test` and `make test-faults`: whole suites are run elsewhere.
QUICK = "-k 'service or killed'"


class Block(NamedTuple):
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\S*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [Block(kind, re.sub(f"^{indent}", "", it, flags=re.M)) for indent, kind, it in found]


def test_each_block_is_of_a_kind_that_is_carried_out() -> None:
    """Or it has no language: a layout, say."""
    for document in DOCUMENTS:
        assert {block.language for block in blocks(document)} <= {"shell", "python", ""}, document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_for_the_template_are_there(document: Path, tmp_path: Path) -> None:
    """`make` is asked what it would do: the targets themselves are run by other tests."""
    name = str(document.relative_to(ROOT))
    program(tmp_path / "make", f'exec {shutil.which("make")} -n "$@"')
    for language, text in blocks(document):
        walked = name in OF_SERVICES or "copier copy" in text or "make update" in text
        if language == "shell" and not walked:
            path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
            assert "python" in run("sh", "-euc", text, cwd=ROOT, PATH=path)


def test_the_code_in_the_readme_is_that_of_the_example() -> None:
    (shown,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    source = (ROOT / "template/app/jobs/contracts.py").read_text(encoding="utf-8")
    assert functions(shown).items() <= functions(source).items()
    assert functions(shown)


def functions(source: str) -> dict[str, str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: ast.dump(node) for node in ast.parse(source).body if isinstance(node, kinds)}


def test_a_reader_gets_from_the_readme_to_a_service_that_runs_and_is_changed(
    released: Path, apart: Path, valkey: str
) -> None:
    """The template's README, then the service's own, then updating.md and switching.md."""
    (start,) = (text for _, text in blocks(ROOT / "README.md") if "copier copy" in text)
    venv = apart / "venv"
    run(sys.executable, "-m", "venv", str(venv), cwd=apart)
    place = re.search(r"https://\S+", start)
    assert place
    start = start.replace(place[0], f"git+file://{released}").replace("copy ", "copy --defaults ")
    settings = {
        "PATH": f"{venv}/bin{os.pathsep}{apart}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": QUICK,
        "PORT": free_port(),
        "JOB_STORE_URL": f"{valkey}/0",
        "LOCK_URL": f"{valkey}/1",
    }
    program(apart / "bin/curl", f'exec {sys.executable} {Path(__file__).with_name("curl.py")} "$@"')
    run("sh", "-euc", start, cwd=apart, **settings)
    service = apart / "my-service"
    service_readme(service, settings)
    for name in sorted(OF_SERVICES, reverse=True):
        for _, text in blocks(ROOT / name):
            for line in text.splitlines():
                commit(service)
                said = run("sh", "-euc", line, cwd=service, **settings)
                if "import" in line:
                    assert re.search(r"^[1-9]\d* jobs added", said, re.MULTILINE)


def service_readme(service: Path, settings: dict[str, str]) -> None:
    commands = [block for block in blocks(service / "README.md") if block.language == "shell"]
    code = [block.text for block in blocks(service / "README.md") if block.language == "python"]
    assert len(commands) == 3
    first, asking, testing = (block.text for block in commands)
    install, dev = first.splitlines()
    run("sh", "-euc", install, cwd=service, **settings)
    with serving(dev, service, settings) as log:
        said = run(
            "sh", "-euc", asking.replace(":8000", f":{settings['PORT']}"), cwd=service, **settings
        )
        assert "/contracts" in said or "id" in said
        for text in code:
            name = text.splitlines()[0].removeprefix("# ")
            assert re.fullmatch(r"app/\w+/\w+\.py", name)
            (service / name).write_text(text.partition("\n")[2])
        address = f"http://127.0.0.1:{settings['PORT']}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        post(f"{address}/reminders?whom=ann&at={now}")
        until(lambda: "a reminder for ann" in log.read_text())
        forget = post(f"{address}/reminders?whom=bob&at=2090-01-01T00:00:00Z")
        delete = urllib.request.Request(f"{address}/reminders/{forget}", method="DELETE")
        assert urllib.request.urlopen(delete).status == 204
        post(f"{address}/reminders?whom=eve&at=2091-01-01T00:00:00Z")
    run("sh", "-euc", testing, cwd=service, **settings)
    agents = (service / "AGENTS.md").read_text(encoding="utf-8")
    assert "```shell" in agents
    commit(service)
    for _, text in blocks(service / "AGENTS.md"):
        run("sh", "-euc", text, cwd=service, **settings)
    run("git", "checkout", "-q", ".", cwd=service)
    run("git", "clean", "-fdq", cwd=service)


@contextmanager
def serving(command: str, folder: Path, settings: dict[str, str]) -> Iterator[Path]:
    """What the server says goes to the file that it gives."""
    log = folder.parent / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env={**os.environ, **settings},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: ready(settings["PORT"]))
        yield log
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def post(url: str) -> str:
    """What it answers, once the server has read the new route."""
    request = urllib.request.Request(url, method="POST")
    found: list[str] = []

    def posted() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                found.append(response.read().decode().strip('"'))
        except (urllib.error.HTTPError, OSError):
            return False
        return True

    until(posted)
    return found[0]


@pytest.fixture
def valkey() -> Iterator[str]:
    server = Valkey()
    try:
        yield server.url
    finally:
        server.close()
