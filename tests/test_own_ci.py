"""The template's own workflows: valid, and nothing is left out of them."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import git, run
from tests.test_releases import release
from tests.test_shipping import BIN, SHELL, program
from tests.variants import PROFILES, ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))["jobs"]


def test_no_linter_objects_to_a_workflow() -> None:
    schema = ("--builtin-schema", "vendor.github-workflows")
    run(str(BIN / "check-jsonschema"), *schema, *map(str, WORKFLOWS), cwd=ROOT)
    run(str(BIN / "zizmor"), "--offline", "--quiet", *map(str, WORKFLOWS), cwd=ROOT)


def test_the_parts_are_all_that_make_test_runs() -> None:
    jobs = workflow("ci.yml")
    parts = [shlex.split(part["tests"]) for part in jobs["test"]["strategy"]["matrix"]["include"]]
    named = {word for part in parts for word in part if word.endswith(".py")}
    named |= {"tests/test_image.py"}  # as root, in a job of its own
    assert named == {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_*.py")}
    chosen = {part[-1] for part in parts if "-k" in part}
    assert chosen == {"not own_suite", "own_suite and sqlite", "own_suite and not sqlite"}


def test_a_release_shows_what_it_renders(current: Path, apart: Path) -> None:
    git("clone", "-q", "--bare", "--no-tags", str(current), "origin.git", cwd=apart)
    program(apart / "bin/gh", "exit 0")
    steps = [step["run"] for step in workflow("release.yml")["release"]["steps"] if "run" in step]
    given = {"PATH": f"{apart}/bin:{BIN}:{os.defpath}"}
    for tag in ("v900.0.0", "v900.1.0"):
        (apart / tag).mkdir()
        clone = apart / tag / "clone"
        git("clone", "-q", str(apart / "origin.git"), "clone", cwd=apart / tag)
        release(clone, tag.removeprefix("v"), "2030-01-01")
        git("tag", "-a", tag, "-m", tag, cwd=clone)
        git("push", "-q", "--follow-tags", cwd=clone)
        for script in steps[1:]:
            run(*SHELL, script, cwd=clone, GITHUB_REF_NAME=tag, **given)
    checking = next(script for script in steps if "tools.release" in script)
    for spoilt in ("v900.0.0", "v900.2.0"):  # of another commit, and of none
        env = {**os.environ, **given, "GITHUB_REF_NAME": spoilt}
        assert subprocess.run([*SHELL, checking], cwd=clone, env=env, check=False).returncode
    shown = git("ls-tree", "-r", "--name-only", "examples", cwd=apart / "origin.git")
    for profile in PROFILES.keys() - {"custom"}:
        assert f"{profile}/app/main.py\n" in shown
    assert git("log", "--format=%s", "examples", cwd=apart / "origin.git").split()[:2] == [
        "v900.1.0",
        "v900.0.0",
    ]
