"""Which services the template can render: read from copier.yml, so a new choice joins by itself."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {k: v for k, v in CONFIG.items() if not k.startswith("_")}
AXES = ("database", "job_store", "executor", "lock_backend")
Answers = dict[str, Any]
_AXES_OF = {
    "single": ("sqlite", "database", "processpool", "database"),
    "replicas-postgresql": ("postgresql", "database", "processpool", "database"),
    "replicas-redis": ("postgresql", "redis", "processpool", "redis"),
    "fleet": ("postgresql", "database", "procrastinate", "database"),
    "custom": ("sqlite", "database", "processpool", "database"),
}
PROFILES = {name: dict(zip(AXES, axes, strict=True)) for name, axes in _AXES_OF.items()}


def choices(question: dict[str, Any]) -> list[Any] | None:
    """The values that a question can have; None for free text."""
    if question["type"] == "bool":
        return [True, False]
    given = question.get("choices")
    if given is None:
        return None
    values = given.values() if isinstance(given, dict) else given
    return [value["value"] if isinstance(value, dict) else value for value in values]


# Installed into environments of their own, with the lowest versions declared and the newest.
REFERENCES: dict[str, Answers] = {
    "embedded": {},
    "replicas-postgresql": {"profile": "replicas-postgresql"},
    "replicas-redis": {"profile": "replicas-redis"},
    "procrastinate": {"profile": "fleet"},
    "taskiq": {"profile": "replicas-redis", "executor": "taskiq"},
    "everything-off": {
        "profile": "custom",
        "license": "none",
        "job_store": "memory",
        "executor": "asyncio",
        "lock_backend": "memory",
        "docker": False,
        "example": False,
        "ci": "none",
    },
}
# The same, with what else can be asked for spread over them: what is shipped with a service.
SHIPPED: dict[str, Answers] = {
    **REFERENCES,
    "embedded": {"kubernetes": True},
    "replicas-redis": REFERENCES["replicas-redis"] | {"ci": "gitlab", "package_manager": "poetry"},
    "taskiq": REFERENCES["taskiq"] | {"kubernetes": True, "package_manager": "pip"},
}
# Their suites run under the eyes of coverage.
COVERED: tuple[Answers, ...] = (
    {"profile": "custom", "database": "sqlite", "job_store": "redis", "lock_backend": "redis"},
    {"profile": "custom", "database": "postgresql", "lock_backend": "memory"},
)
# Their suites run where a package manager is tried, and where the steps of CI are.
MANAGED: dict[str, Answers] = {
    "uv": {"profile": "custom", "job_store": "memory"},
    "poetry": {"profile": "custom", "executor": "threadpool"},
    "pip": {"profile": "custom", "job_store": "memory", "executor": "threadpool"},
}
STEPPED: Answers = {"profile": "custom", "executor": "asyncio"}
DOMAINS = {name: found for name, q in QUESTIONS.items() if (found := choices(q)) is not None}
TEXTS = [name for name in QUESTIONS if name not in DOMAINS]


def valid(answers: Answers) -> bool:
    """The one mirror of copier.yml's choice validators; a test holds it against Copier."""
    replicas = answers["profile"] not in ("single", "custom")
    alone = "sqlite" in answers.values() or "memory" in answers.values()
    workers = answers.get("executor") in ("procrastinate", "taskiq")
    one_host = answers["database"] == "sqlite" or answers["lock_backend"] == "memory"
    return not (replicas and alone) and not (workers and one_host)


def products(names: tuple[str, ...]) -> Iterator[Answers]:
    for values in itertools.product(*(DOMAINS[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def combinations() -> list[Answers]:
    """Every valid combination of the four axes, each with the others' defaults."""
    return [
        answers
        for axes in products(AXES)
        if valid(answers := {"profile": "custom", "example": True, **axes})
    ]


def declared(service: Path) -> set[str]:
    """What a rendered service installs, with its tests."""
    document = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    return {*document["project"]["dependencies"], *document["dependency-groups"]["dev"]}


def axes(answers: Answers) -> tuple[Any, ...]:
    """The answers to the four questions about backends, with the defaults of its profile."""
    whole = PROFILES[answers.get("profile", QUESTIONS["profile"]["default"])] | answers
    return tuple(whole[name] for name in AXES)


def alone() -> list[Answers]:
    """The combinations whose suite no other test runs."""
    others = (*REFERENCES.values(), *COVERED, *MANAGED.values(), STEPPED)
    elsewhere = {axes(answers) for answers in others if answers.get("example", True)}
    return [answers for answers in combinations() if axes(answers) not in elsewhere]


STRENGTH = int(os.environ.get("STRENGTH", "2"))
"""2: each valid pair of answers is rendered. `make test-all`: each triple."""


@functools.cache
def covering() -> list[Answers]:
    """Few variants in which each valid pair of answers, of all questions, occurs; or triple.

    Greedily, of some that hold the next missing one; that they are all there is asserted by other
    code. covertable took over ten minutes for triples under our constraint.
    """
    chance = random.Random(0)
    # Only these constrain each other: the product of all questions has half a million rows.
    bound = [row for row in products(("profile", *AXES)) if valid(row)]
    free = [name for name in DOMAINS if name not in bound[0]]

    def some(part: Answers) -> Iterator[Answers]:
        """Valid rows that hold it."""
        fitting = [row for row in bound if part.items() & row.items() == _of(row, part)]
        for _ in range(40 if fitting else 0):
            row = {**chance.choice(fitting), **{n: chance.choice(DOMAINS[n]) for n in free}, **part}
            yield {name: row[name] for name in DOMAINS}

    missing = {
        tuple(part.items())
        for names in itertools.combinations(DOMAINS, STRENGTH)
        for part in products(names)
        if next(some(part), None)
    }
    rows = []
    for part in sorted(missing, key=repr):
        if part in missing:
            rows.append(max(some(dict(part)), key=lambda row: len(tuples(row) & missing)))
            missing -= tuples(rows[-1])
    return rows


def _of(row: Answers, part: Answers) -> set[tuple[str, Any]]:
    """What a part says of the questions in this row."""
    return {(name, value) for name, value in part.items() if name in row}


def tuples(answers: Answers) -> set[tuple[tuple[str, Any], ...]]:
    """The pairs of answers in it, or triples."""
    return {
        tuple((name, answers[name]) for name in names)
        for names in itertools.combinations(DOMAINS, STRENGTH)
    }


def name_of(answers: Answers) -> str:
    return "-".join(str(value) for value in answers.values())


def command(answers: Answers, *python: str) -> str:
    """What renders this variant by hand, and runs this in it."""
    data = " ".join(f"--data {shlex.quote(f'{n}={v}')}" for n, v in answers.items())
    rendering = f".venv/bin/copier copy --vcs-ref HEAD --defaults {data} . /tmp/variant"
    if not python:
        return rendering
    running = shlex.join([".venv/bin/python", *python])
    return f"{rendering} && make -C /tmp/variant install && (cd /tmp/variant && {running})"
