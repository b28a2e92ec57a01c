"""`make update` and `make drift` of a rendered service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import commit, git, run
from tests.owner import change
from tests.test_updates import start


@pytest.fixture
def service(released: Path, tmp_path: Path) -> Path:
    return start(released, tmp_path / "service")


def upkeep(folder: Path, *arguments: str) -> tuple[int, str]:
    """Its exit code, and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "app.core.upkeep", *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    return done.returncode, done.stdout + done.stderr


def test_drift_names_what_was_edited_deleted_or_added_in_the_templates_zone(service: Path) -> None:
    assert upkeep(service, "drift")[0] == 0
    change(service / "app/core/health.py", "/live", "/alive")
    (service / "tests/core/test_health.py").unlink()
    (service / "app/core/mine.py").write_text('"""Mine."""\n')
    (service / "app/jobs/mine.py").write_text('"""Mine, where it belongs."""\n')
    commit(service)
    code, said = upkeep(service, "drift")
    assert code == 1
    names = said.partition("git checkout`:")[2].split()
    assert names == ["app/core/health.py", "app/core/mine.py", "tests/core/test_health.py"]


def test_an_update_is_refused_where_it_could_not_be_taken_back(service: Path) -> None:
    (service / "notes.txt").write_text("not committed")
    code, said = upkeep(service, "update")
    assert code == 1
    assert "commit them, then update" in said
    assert git("status", "--porcelain", cwd=service) == "?? notes.txt\n"


def test_an_update_to_the_newest_version_changes_nothing(service: Path) -> None:
    code, said = upkeep(service, "update")
    assert (code, "v1.0.0 is the newest version" in said) == (0, True), said
    assert git("status", "--porcelain", cwd=service) == ""


def test_an_update_stops_at_conflicts_and_at_silent_deletions(
    service: Path, released: Path
) -> None:
    change(service / "app/core/health.py", "from fastapi", "import json  # mine\nfrom fastapi")
    change(service / "tests/core/test_requests.py", "import", "import sys\nimport")
    commit(service)
    template = released / "template"
    change(template / "app/core/health.py", "from fastapi", "import html  # new\nfrom fastapi")
    (template / "tests/core/test_requests.py").unlink()
    (template / "tests/core/test_logging.py").unlink(missing_ok=True)
    commit(released, "v2.0.0")
    code, said = upkeep(service, "update")
    assert code == 1
    assert "edited here, though it is the template's: app/core/health.py" in said
    assert "has conflicts: app/core/health.py" in said
    assert "was yours, and is deleted: tests/core/test_requests.py" in said
    (way_back,) = re.findall("go back with `([^`]+)`", said)
    run("sh", "-ec", way_back, cwd=service)
    assert git("status", "--porcelain", cwd=service) == ""


def test_an_update_is_installed_checked_and_tested(
    service: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make` is asked for is the Makefile's: here it says so, and nothing else."""
    (service / "Makefile").write_text("%:\n\t@echo made $@\n")
    commit(service)
    change(released / "template/app/core/schema.py", "_Id = ", "# Wide enough.\n_Id = ")
    commit(released, "v2.0.0")
    code, said = upkeep(service, "update", "--data", "description=Another")
    assert code == 0, said
    assert [line for line in said.splitlines() if line.startswith("made")] == [
        "made install",
        "made check",
        "made test",
    ]
    assert "app/core/schema.py" in said
    assert "From v1.0.0 to v2.0.0, checked and tested." in said
    assert answers(service)["description"] == "Another"


def answers(folder: Path) -> dict[str, Any]:
    import yaml

    read: dict[str, Any] = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    return read
