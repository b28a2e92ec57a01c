"""`copier update`: what is yours stays as it is, what is the template's follows it."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import copier
import pytest

from tests.conftest import Render, commit, git, manifest
from tests.owner import Work, change, is_yours
from tests.releases import NEWEST, bases, releases, repository
from tests.test_variants import PYTEST, postgresql, run
from tests.variants import DOMAINS, PROFILES, ROOT, SHIPPED, Answers, valid

__all__ = ["postgresql", "repository"]
Worked = Callable[..., tuple[Path, Work]]


def from_each_release() -> Iterator[tuple[str, str]]:
    """Each variant of the last one; of those before it every other, so that two have them all.

    All of theirs were tried when they were the last.
    """
    # Before there is a release, two variants show that the others will be looked at.
    variants = list(SHIPPED) if releases() else ["embedded", "taskiq"]
    *older, last = bases()
    for number, version in enumerate(older):
        yield from ((version, name) for name in variants[number % 2 :: 2])
    yield from ((last, name) for name in variants)


FROM_EACH = pytest.mark.parametrize(("version", "variant"), list(from_each_release()))


@pytest.fixture
def service(released: Path, tmp_path: Path) -> Path:
    """A service from v1.0.0, in a repository of its own."""
    return start(released, tmp_path / "service")


def start(template: Path, folder: Path, version: str = "v1.0.0", **answers: Any) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        copier.run_copy(
            str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref=version
        )
    commit(folder)
    return folder


def update(folder: Path, vcs_ref: str | None = None, **answers: Any) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        copier.run_update(
            folder, data=answers, defaults=True, overwrite=True, quiet=True, vcs_ref=vcs_ref
        )
    assert git("ls-files", "--unmerged", cwd=folder) == ""
    for path in folder.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            assert path.suffix != ".rej"
            assert not re.search(rb"^(<<<<<<<|>>>>>>>) ", path.read_bytes(), re.MULTILINE), path


def test_an_update_to_the_same_version_changes_nothing(service: Path) -> None:
    update(service)
    assert git("status", "--porcelain", cwd=service) == ""


def test_what_both_sides_change_is_merged(service: Path, released: Path) -> None:
    work = Work(service)
    template = released / "template"
    change(template / "pyproject.toml.jinja", '"cronsim>=2.7"', '"cronsim>=2.8"')
    change(template / "app/core/schema.py", "_Id = ", "# Wide enough.\n_Id = ")
    change(template / "app/main.py", "The application", "The only application")
    change(template / "app/jobs/contracts.py", "Keep the public", "Always keep the public")
    change(template / "app/jobs/statistics.py", "Statistics over", "More statistics over")
    change(template / "compose.yaml.jinja", "stop_grace_period: 45s", "stop_grace_period: 60s")
    change(template / ".github/workflows/ci.yml.jinja", "- audit", "- audit\n          - docs")
    change(template / "Dockerfile.jinja", "COPY app app", "COPY docs docs\nCOPY app app")
    (template / "app/core/news.py").write_text('"""New."""\n')
    commit(released, "v2.0.0")
    update(service)

    work.assert_is_kept()
    for name, news in {
        "app/core/news.py": "New.",
        "app/core/schema.py": "# Wide enough.",
        "pyproject.toml": '"cronsim>=2.8"',
        ".github/workflows/ci.yml": "- docs\n",
        "compose.yaml": "stop_grace_period: 60s",
        "Dockerfile": "COPY docs docs",
    }.items():
        assert news in (service / name).read_text(encoding="utf-8"), name


@FROM_EACH
def test_a_service_of_each_release_is_updated_and_loses_nothing(
    repository: Path, tmp_path: Path, version: str, variant: str, request: pytest.FixtureRequest
) -> None:
    answers = SHIPPED[variant]
    service = start(repository, tmp_path / "service", version, **answers)
    work = Work(service)
    newest = version == list(bases())[-1]  # the older ones did so when they were the newest
    if newest:  # the template's tests were green when it was released
        its_suite_is_green(service, answers, request, "--ignore=tests/core")
    update(service, vcs_ref=NEWEST)
    work.assert_is_kept()
    if newest:
        commit(service)
        its_suite_is_green(service, answers, request)


@FROM_EACH
def test_a_service_that_nobody_touched_becomes_the_fresh_rendering(
    repository: Path, tmp_path: Path, render: Render, version: str, variant: str
) -> None:
    service = start(repository, tmp_path / "service", version, **SHIPPED[variant])
    before = manifest(service)
    update(service, vcs_ref=NEWEST)
    after, fresh = manifest(service), manifest(render(**SHIPPED[variant]))
    assert not_yours(after) == not_yours(fresh)
    assert {n: h for n, h in after.items() if is_yours(n)} == {
        n: h for n, h in before.items() if is_yours(n)
    }


def not_yours(files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if not is_yours(name)}


def its_suite_is_green(
    folder: Path, answers: Answers, request: pytest.FixtureRequest, *arguments: str
) -> None:
    sqlite = 'DATABASE = "sqlite"' in (folder / "app/core/wiring.py").read_text(encoding="utf-8")
    url = {} if sqlite else {"DATABASE_URL": request.getfixturevalue("postgresql")}
    run(folder, answers, *PYTEST, *arguments, **url)


def switches() -> Iterator[tuple[Answers, Answers]]:
    """Each answer to each question with choices, changed to each other one, alone."""
    for name, values in DOMAINS.items():
        for before, after in itertools.permutations(values, 2):
            for database in DOMAINS["database"]:
                base = {"profile": "custom", **PROFILES["custom"], "database": database}
                if (
                    name != "profile"
                    and valid(base | {name: before})
                    and valid(base | {name: after})
                ):
                    yield base | {name: before}, {name: after}
                    break


@pytest.fixture(scope="session")
def worked(current: Path, tmp_path_factory: pytest.TempPathFactory) -> Worked:
    """A service that its owner worked on, and what he did; made once for each set of answers."""

    @functools.cache
    def worked(**answers: Any) -> tuple[Path, Work]:
        service = start(current, tmp_path_factory.mktemp("worked") / "service", **answers)
        return service, Work(service)

    return worked


@pytest.mark.parametrize(
    ("before", "after"),
    list(switches()),
    ids=lambda answers: "-".join(map(str, answers.values())),
)
def test_a_changed_answer_gives_the_fresh_rendering_and_the_owners_work(
    worked: Worked, tmp_path: Path, render: Render, before: Answers, after: Answers
) -> None:
    made, work = worked(**before)
    service = Path(shutil.copytree(made, tmp_path / "service"))
    update(service, **after)
    fresh, (with_work, _) = render(**before | after), worked(**before | after)
    work.at(service).assert_is_kept(fresh)
    had = manifest(made)
    there = {name: digest for name, digest in manifest(with_work).items() if name in had}
    assert not_yours(manifest(service)) == not_yours(manifest(fresh) | there)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"database": "sqlite"}, {"database": "postgresql"}),
        ({"database": "postgresql"}, {"executor": "procrastinate"}),
    ],
    ids=str,
)
def test_the_suite_is_green_after_a_change_of_backends(
    current: Path,
    tmp_path: Path,
    before: Answers,
    after: Answers,
    request: pytest.FixtureRequest,
) -> None:
    """Two: the files after the others are those of renderings whose suites run elsewhere."""
    service = start(current, tmp_path / "service", profile="custom", **before)
    Work(service)
    update(service, **after)
    its_suite_is_green(service, before | after, request)


def test_the_example_appears_when_it_is_asked_for_and_stays_deleted_later(
    released: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = start(released, tmp_path / "service", example=False)
    Work(service)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        copier.run_update(service, data={"example": True}, defaults=True, overwrite=True)
    fields = (ROOT / "template/app/settings.py").read_text(encoding="utf-8")
    assert fields in said.getvalue()  # the owner's to take over, for that file is the owner's
    body = fields.partition("class Settings(CoreSettings):\n")[2]
    text = (service / "app/settings.py").read_text(encoding="utf-8")
    head, _, yours = text.partition("class Settings(CoreSettings):\n    pass\n\n    # yours\n")
    imports = "from pydantic import Field, SecretStr\n\nfrom app.core"
    settings = f"{head}class Settings(CoreSettings):\n{yours}\n{body}"
    (service / "app/settings.py").write_text(settings.replace("from app.core", imports, 1))
    assert (service / "app/jobs/contracts.py").exists()
    its_suite_is_green(service, {"example": True}, request, "--ignore=tests/core")
    commit(service)

    (service / "app/jobs/statistics.py").unlink()
    commit(service)
    change(released / "template/app/jobs/statistics.py", "Statistics over", "More statistics over")
    change(released / "template/app/jobs/contracts.py", "Keep the public", "Always keep the public")
    commit(released, "v2.0.0")
    before = manifest(service)
    for example in (True, False, True):
        update(service, example=example)
        after = manifest(service)
        assert [n for n in before if is_yours(n) and before[n] != after.get(n)] == []
        assert not (service / "app/jobs/statistics.py").exists()
        commit(service)
