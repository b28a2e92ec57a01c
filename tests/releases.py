"""The released versions: each commit that changed the version in pyproject.toml."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import commit, git
from tests.variants import ROOT

_VERSION = re.compile(r'^version = "(\d+\.\d+\.\d+)(\.dev\d+)?"$', re.MULTILINE)
NEWEST = "v999.0.0"


@functools.cache
def releases() -> dict[str, str]:
    """The commit of each released version, oldest first. One with `.dev` takes it back."""
    found: dict[str, str] = {}
    log = ("log", "--reverse", "--format=%H", "-G^version = ", "--", "pyproject.toml")
    for revision in git(*log, cwd=ROOT).split():
        text = git("show", f"{revision}:pyproject.toml", cwd=ROOT)
        if version := _VERSION.search(text):
            found.pop(f"v{version[1]}", None)
            if not version[2]:
                found[f"v{version[1]}"] = revision
    return found


@functools.cache
def bases() -> dict[str, str]:
    """What services are updated from: the releases; before the first, what came before the last."""
    rendered = ("--", "template", "includes", "copier.yml")
    before = git("log", "-1", "--skip=1", "--format=%H", *rendered, cwd=ROOT).strip()
    return releases() or {"v0.0.1": before}


@pytest.fixture(scope="session")
def repository(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a tag for each release; the working tree is the newest."""
    folder = tmp_path_factory.mktemp("releases") / "template"
    git("clone", "-q", str(ROOT), str(folder), cwd=folder.parent)
    for version, revision in bases().items():
        if not git("tag", "--list", version, cwd=folder):
            git("tag", "-a", version, "-m", version, revision, cwd=folder)
    git("rm", "-rq", "--ignore-unmatch", ".", cwd=folder)
    shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    commit(folder, NEWEST)
    return folder
