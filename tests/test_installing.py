"""What is rendered installs and works: by each package manager, on each Python, old or new."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Render, commit, git, run
from tests.owner import change
from tests.test_cli import copier
from tests.variants import DOMAINS, MANAGED, REFERENCES, ROOT, Answers, command, declared

UV = str(Path(sys.executable).with_name("uv"))
# What `make install` writes down, and git sees.
LOCKS = {"uv": "?? uv.lock\n", "poetry": "?? poetry.lock\n", "pip": ""}


@functools.cache
def pythons() -> list[str]:
    """The interpreters that are here, of those that can be chosen; oldest first."""
    found = [
        subprocess.run(
            [UV, "python", "find", "--no-project", "--system", version],
            text=True,
            capture_output=True,
            env={**os.environ, "PYENV_VERSION": version},  # else pyenv hides all but one
        )
        for version in DOMAINS["python_version"]
    ]
    return [done.stdout.strip() for done in found if done.returncode == 0]


def copied(snapshot: Path, folder: Path, answers: Answers) -> None:
    """By the real command line."""
    data = [word for pair in answers.items() for word in ("--data", "{}={}".format(*pair))]
    copier("copy", "--defaults", *data, str(snapshot), str(folder), cwd=folder.parent)


@pytest.mark.parametrize("package_manager", MANAGED)
def test_a_package_manager_installs_a_service_that_works(
    snapshot: Path, apart: Path, package_manager: str
) -> None:
    """On a machine that has Python with venv, git and make, and no package manager but pip."""
    folder = apart / "service"
    answers = MANAGED[package_manager] | {"package_manager": package_manager}
    copied(snapshot, folder, answers)
    if package_manager == "poetry":
        with_simple_index(folder / "pyproject.toml")
    commit(folder)

    def make(*targets: str) -> None:
        bare = {"PATH": os.defpath, "VIRTUAL_ENV": str(apart / "active")}
        run("make", *targets, f"PYTHON={sys.executable}", cwd=folder, **bare)

    make("install")
    make("check")
    make("test")
    assert git("status", "--porcelain", cwd=folder) == LOCKS[package_manager]
    change(folder / "pyproject.toml", "    # yours\n", '    # yours\n    "iniconfig>=2",\n')
    make("install")


def test_each_package_manager_is_tried() -> None:
    assert MANAGED.keys() == set(DOMAINS["package_manager"])


def with_simple_index(project: Path) -> None:
    """Poetry asks an index for metadata of each version, which mirrors rarely have."""
    said = run(sys.executable, "-m", "pip", "install", "--help", cwd=project.parent)
    (url,) = re.findall(r"default\s+(https?://[^)\s]+)", said)
    with project.open("a") as file:
        file.write(f'\n[[tool.poetry.source]]\nname = "simple"\nurl = "{url}/"\n')


CHECKED = ("embedded", "procrastinate", "taskiq")
"""Between them they have every package that a service can have."""


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_variant_works_with_the_lowest_and_the_newest_versions(
    snapshot: Path, apart: Path, name: str, resolution: str
) -> None:
    """The lowest on the oldest Python, the newest on the newest that is here."""
    folder = apart / "service"
    answers = REFERENCES[name]
    copied(snapshot, folder, answers)
    lowest = resolution == "lowest-direct"
    python = pythons()[0 if lowest else -1]
    sync = ("sync", "--quiet", "--resolution", resolution, "--python", python)
    repeat = f"To repeat it:\n  {command(answers)}\n  cd /tmp/variant && uv {' '.join(sync)}"
    run(UV, *sync, cwd=folder, repeat=repeat)
    if not lowest and name in CHECKED:
        run("make", "check", cwd=folder, repeat=repeat)
    run(".venv/bin/python", "-m", "pytest", "-q", cwd=folder, repeat=repeat)


def test_the_pythons_between_the_oldest_and_the_newest_run_a_suite(
    snapshot: Path, apart: Path
) -> None:
    for python in pythons()[1:-1]:
        folder = apart / Path(python).name
        copied(snapshot, folder, {})
        sync = ("sync", "--quiet", "--python", python)
        repeat = f"To repeat it:\n  {command({})}\n  cd /tmp/variant && uv {' '.join(sync)}"
        run(UV, *sync, cwd=folder, repeat=repeat)
        run(".venv/bin/python", "-m", "pytest", "-q", cwd=folder, repeat=repeat)


def test_what_is_checked_has_every_package(render: Render) -> None:
    """In its newest version; and so do the lowest ones, which run a suite."""
    found = set().union(*(declared(render(**REFERENCES[name])) for name in CHECKED))
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found == set(own["dependency-groups"]["rendered"])


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("python_version", DOMAINS["python_version"])
def test_every_floor_resolves(tmp_path: Path, python_version: str, resolution: str) -> None:
    """All that the variants declare, to packages built for that Python: no compiler is needed."""
    run(
        UV, "pip", "compile", "--quiet", "--no-build", "--group", f"{ROOT}/pyproject.toml:rendered",
        "--python-version", python_version, "--resolution", resolution, cwd=tmp_path,
    )  # fmt: skip
