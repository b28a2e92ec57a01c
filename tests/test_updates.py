"""`copier update`: what is yours stays as it is, what is the template's follows it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import copier
import pytest

from tests.conftest import Render, commit, git, manifest


@pytest.fixture
def service(released: Path, tmp_path: Path) -> Path:
    """A service from v1.0.0, in a repository of its own."""
    return start(released, tmp_path / "service")


def start(released: Path, folder: Path, **answers: Any) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        copier.run_copy(
            str(released), folder, data=answers, defaults=True, quiet=True, vcs_ref="v1.0.0"
        )
    commit(folder)
    return folder


def update(folder: Path, **answers: Any) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        copier.run_update(folder, data=answers, defaults=True, overwrite=True, quiet=True)
    assert git("ls-files", "--unmerged", cwd=folder) == ""
    for path in folder.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            assert path.suffix != ".rej"
            assert not re.search(rb"^(<<<<<<<|>>>>>>>) ", path.read_bytes(), re.MULTILINE), path


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text, f"{before!r} is not in {path}"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_an_update_to_the_same_version_changes_nothing(service: Path) -> None:
    update(service)
    assert git("status", "--porcelain", cwd=service) == ""


def test_an_owners_work_survives_an_update(service: Path, released: Path) -> None:
    (service / "app/jobs/billing.py").write_text('"""Mine."""\n')
    (service / "app/jobs/statistics.py").unlink()
    change(service / "app/jobs/contracts.py", "timeout=240", "timeout=300")
    change(service / "app/settings.py", "    # yours\n", '    # yours\n    bucket: str = "x"\n')
    change(service / "app/main.py", "app = create_app()", 'app = create_app()\napp.title = "Mine"')
    change(service / "pyproject.toml", "    # yours\n", '    # yours\n    "stamina>=25",\n')
    change(service / "pyproject.toml", 'version = "0.1.0"', 'version = "3.2.0"')
    change(service / "Makefile", "# yours\n", "# yours\n\ndeploy:\n\techo mine\n")
    change(service / ".gitignore", "# yours\n", "# yours\n/notes/\n")
    ci = service / ".github/workflows/ci.yml"
    change(ci, "          # yours\n", "          # yours\n          - deploy\n")
    change(
        ci,
        "\n  # yours\n",
        "\n  # yours\n\n  publish:\n    uses: ./.github/workflows/publish.yml\n",
    )
    compose = service / "compose.yaml"
    change(compose, "    # yours\n", "    # yours\n    BUCKET: x\n")
    change(compose, "\n  # yours\n", "\n  # yours\n\n  mail:\n    image: mailpit\n")
    change(service / "Dockerfile", "# yours\n", "# yours\nCOPY fonts fonts\n")
    (service / "README.md").write_text("# Ours now\n")
    commit(service)
    yours = {
        name: digest
        for name, digest in manifest(service).items()
        if name.startswith(("app/jobs", "app/services", "app/api", "app/main", "app/settings"))
        or name in ("README.md", "tests/test_contracts.py")
    }

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

    assert {name: manifest(service).get(name) for name in yours} == yours
    assert not (service / "app/jobs/statistics.py").exists()
    assert (service / "app/core/news.py").exists()
    assert "# Wide enough." in (service / "app/core/schema.py").read_text()
    project = (service / "pyproject.toml").read_text()
    for kept in ('"cronsim>=2.8"', '"stamina>=25"', 'version = "3.2.0"'):
        assert kept in project
    for kept in ("- deploy\n", "publish.yml", "- docs\n"):
        assert kept in ci.read_text()
    for kept in ("BUCKET: x", "image: mailpit", "stop_grace_period: 60s"):
        assert kept in compose.read_text()
    for kept in ("COPY fonts fonts", "COPY docs docs"):
        assert kept in (service / "Dockerfile").read_text()
    assert "echo mine" in (service / "Makefile").read_text()
    assert "/notes/" in (service / ".gitignore").read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"lock_backend": "database"}, {"lock_backend": "memory"}),
        ({"job_store": "memory"}, {"job_store": "database"}),
        ({"executor": "asyncio"}, {"executor": "threadpool"}),
        ({"database": "sqlite"}, {"database": "postgresql"}),
        ({"database": "postgresql"}, {"database": "sqlite"}),
        ({"license": "MIT"}, {"license": "none"}),
        ({"python_version": "3.11"}, {"python_version": "3.13"}),
        ({"package_manager": "uv"}, {"package_manager": "pip"}),
        ({"package_manager": "pip"}, {"package_manager": "poetry"}),
        ({"package_manager": "poetry"}, {"package_manager": "uv"}),
        ({"docker": True}, {"docker": False}),
        ({"kubernetes": False}, {"kubernetes": True}),
        ({"ci": "github"}, {"ci": "gitlab"}),
        ({"ci": "none"}, {"ci": "github"}),
    ],
    ids=str,
)
def test_a_changed_answer_gives_the_fresh_rendering_in_what_is_not_yours(
    released: Path, tmp_path: Path, render: Render, before: dict[str, Any], after: dict[str, Any]
) -> None:
    service = start(released, tmp_path / "service", profile="custom", **before)
    update(service, **after)
    fresh = manifest(render(profile="custom", **after))
    yours = "README.md"  # rendered once; it is the owner's to correct
    assert manifest(service) | {yours: ""} == fresh | {yours: ""}
