"""What is released keeps what the releases before it promised."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests.conftest import Render, commit, git, manifest
from tests.releases import releases, repository
from tests.variants import QUESTIONS, ROOT, SHIPPED, choices
from tools.release import NotReady, check, news, version_of

__all__ = ["repository"]
VERSION = version_of(ROOT)
CHANGED = git("status", "--porcelain", "pyproject.toml", cwd=ROOT)
"""Is the commit of a release being made?"""
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def last() -> tuple[str, str]:
    """The newest release before what is here, and its commit; what is here, if it is the first."""
    here = git("rev-parse", "HEAD", cwd=ROOT).strip()
    before = [release for release in releases().items() if release[1] != here]
    return before[-1] if before else ("v0.0.0", here)


def test_the_history_has_the_releases() -> None:
    """Else nothing is updated from them."""
    text = "not in the history: clone all of it (fetch-depth: 0)"
    assert f"v{VERSION}" in releases() or ".dev" in VERSION or CHANGED, text


def test_version_and_changelog_agree() -> None:
    headings = re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)
    if ".dev" in VERSION:
        assert f"v{VERSION.partition('.dev')[0]}" not in releases()
        assert "\n## [Unreleased]\n" in CHANGELOG
    else:
        assert headings[0] == VERSION
    found = [f"v{heading}" for heading in reversed(headings)]
    assert found == list(releases()) or (CHANGED and found[:-1] == list(releases()))


def test_each_question_of_the_last_release_is_understood() -> None:
    """Copier takes the default for an answer that it does not know, without a word."""
    since, revision = last()
    named = news(CHANGELOG, since)
    config = yaml.safe_load(git("show", f"{revision}:copier.yml", cwd=ROOT))
    for name, question in config.items():
        if name.startswith("_") or f"`{name}`" in named:
            continue
        assert name in QUESTIONS, f"{name} is gone since {since}: say so in CHANGELOG.md"
        assert question["type"] == QUESTIONS[name]["type"]
        for choice in choices(question) or ():
            kept = choice in (choices(QUESTIONS[name]) or [choice])
            assert kept or f"`{name}={choice}`" in named, f"{name}={choice} is gone: {since} had it"


def test_each_question_has_a_default() -> None:
    """`copier update --defaults` fails where a question that is new has none."""
    for name, question in QUESTIONS.items():
        assert "default" in question, name


@pytest.mark.parametrize("variant", SHIPPED)
def test_no_file_of_the_last_release_vanishes_without_a_word(
    repository: Path, render: Render, tmp_path: Path, variant: str
) -> None:
    """Copier deletes it in each service, edited or not."""
    since, revision = last()
    before = tmp_path / "service"
    answers = SHIPPED[variant]
    with contextlib.redirect_stderr(io.StringIO()):
        copier.run_copy(
            str(repository), before, data=answers, defaults=True, quiet=True, vcs_ref=revision
        )
    gone = manifest(before).keys() - manifest(render(**answers)).keys()
    named = news(CHANGELOG, since)
    assert [name for name in sorted(gone) if f"`{name}`" not in named] == []


@pytest.fixture
def candidate(repository: Path, tmp_path: Path) -> Path:
    """A clone whose last commit is about to be released as 900.0.0."""
    folder = tmp_path / "template"
    git("clone", "-q", "--no-tags", str(repository), str(folder), cwd=tmp_path)
    release(folder, "900.0.0", "2030-01-01")
    return folder


def release(folder: Path, version: str, day: str) -> None:
    edit(folder / "pyproject.toml", r'^version = ".*"$', f'version = "{version}"')
    edit(folder / "CHANGELOG.md", r"^## \[", f"## [{version}] - {day}\n\n## [", 1)
    commit(folder)


def edit(path: Path, pattern: str, text: str, count: int = 0) -> None:
    before = path.read_text(encoding="utf-8")
    after = re.sub(pattern, text, before, count=count, flags=re.MULTILINE)
    assert after != before
    path.write_text(after, encoding="utf-8")


def test_a_release_is_ready_with_and_without_its_tag(candidate: Path) -> None:
    assert check(candidate) == "v900.0.0"
    git("tag", "-a", "v900.0.0", "-m", "v900.0.0", cwd=candidate)
    assert check(candidate) == "v900.0.0"


def spoil_changes(folder: Path) -> None:
    (folder / "README.md").write_text("changed")


def spoil_version(folder: Path) -> None:
    edit(folder / "pyproject.toml", '^version = "900.0.0"$', 'version = "900.0.0.dev0"')
    commit(folder)


def spoil_changelog(folder: Path) -> None:
    edit(folder / "CHANGELOG.md", r"^## \[900.0.0\]", "## [899.0.0]")
    commit(folder)


def spoil_commit(folder: Path) -> None:
    commit(folder)


def spoil_light_tag(folder: Path) -> None:
    git("tag", "v900.0.0", cwd=folder)


def spoil_moving_tag(folder: Path) -> None:
    git("tag", "-a", "latest", "-m", "latest", cwd=folder)


def spoil_tag_elsewhere(folder: Path) -> None:
    git("tag", "-a", "v900.0.0", "-m", "v900.0.0", "HEAD~1", cwd=folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_changes, "README.md"),
        (spoil_version, r"900\.0\.0\.dev0"),
        (spoil_changelog, r"\[899\.0\.0\]"),
        (spoil_commit, "is not the commit that changed the version"),
        (spoil_light_tag, "git tag -f -a v900.0.0"),
        (spoil_moving_tag, "git tag -d latest"),
        (spoil_tag_elsewhere, "tags another commit"),
    ],
)
def test_what_is_not_ready_is_refused(candidate: Path, spoil: Any, says: str) -> None:
    spoil(candidate)
    with pytest.raises(NotReady, match=says):
        check(candidate)
