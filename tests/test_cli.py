"""The real `copier`, as people call it: no --trust, from a path and from a URL."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import VcsRef, _main, run_update
from pytest_copie.plugin import Copie

from tests.conftest import Render, commit, git, manifest
from tests.variants import PROFILES, ROOT


def copier(*arguments: str, cwd: Path, code: int = 0) -> str:
    """Its messages; fails on any other exit code than this."""
    done = subprocess.run(
        [sys.executable, "-m", "copier", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "TMPDIR": os.environ["PYTEST_DEBUG_TEMPROOT"]},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", ["path", "url"])
def test_copy_and_update_need_no_trust(released: Path, tmp_path: Path, kind: str) -> None:
    source = str(released) if kind == "path" else f"git+file://{released}"
    folder = tmp_path / "service"
    said = copier("copy", "--defaults", source, str(folder), cwd=tmp_path)
    assert "scheduler-service is there. Next:" in said
    assert f"cd {folder} && git init" in said
    assert "make install dev" in said
    assert "WARNING" not in said
    commit(folder)
    (released / "template/app/core/news.py").write_text('"""New."""\n')
    commit(released, "v1.1.0")
    said = copier("update", "--defaults", cwd=folder)
    assert (folder / "app/core/news.py").exists()
    assert "database=sqlite, job_store=database, executor=processpool" in said
    assert yaml.safe_load((folder / ".copier-answers.yml").read_text())["_commit"] == "v1.1.0"


def test_the_next_commands_can_be_pasted_whatever_the_folder_is_called(
    released: Path, tmp_path: Path
) -> None:
    said = copier("copy", "--defaults", str(released), "it's a service; $HOME", cwd=tmp_path)
    (command,) = re.findall(r"^ *(cd .*) && git init", said, re.MULTILINE)
    arrived = subprocess.check_output(["sh", "-c", f"{command} && pwd"], cwd=tmp_path, text=True)
    assert arrived == f"{tmp_path}/it's a service; $HOME\n"


def test_answers_come_from_a_file_or_the_command_line(released: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.yml"
    answers.write_text("project_name: billing-jobs\nprofile: replicas-postgresql\n")
    copier(
        "copy", "--defaults", "--data-file", "answers.yml", "--data", "license=none",
        "--data", "jobs_store=memory", str(released), "service", cwd=tmp_path,
    )  # fmt: skip
    recorded = yaml.safe_load((tmp_path / "service/.copier-answers.yml").read_text())
    assert recorded["project_name"] == "billing-jobs"
    assert recorded["database"] == "postgresql"
    assert not (tmp_path / "service/LICENSE").exists()
    commit(tmp_path / "service")
    answers.write_text("license: MIT\n")
    update = ("update", "--defaults", "--vcs-ref", ":current:", "--data-file", str(answers))
    copier(*update, cwd=tmp_path / "service")
    assert (tmp_path / "service/LICENSE").exists()


def test_an_unknown_name_is_reported_by_copy_and_by_update(released: Path, tmp_path: Path) -> None:
    told = "no question has this name, so it had no effect: jobs_store"
    data = ("--data", "jobs_store=memory")
    said = copier("copy", "--defaults", *data, str(released), "service", cwd=tmp_path)
    assert told in said
    commit(tmp_path / "service")
    said = copier("update", "--defaults", "--vcs-ref", ":current:", *data, cwd=tmp_path / "service")
    assert told in said


def test_a_profile_that_is_changed_later_moves_nothing_and_says_what_would(
    released: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "service"
    copier("copy", "--defaults", str(released), "service", cwd=tmp_path)
    commit(folder)
    same = ("update", "--defaults", "--vcs-ref", ":current:", "--data")
    said = copier(*same, "profile=fleet", cwd=folder, code=1)
    assert "database=sqlite is a file of one host, and a profile moves no answer" in said
    assert "use --data database=postgresql with it" in said
    copier(*same, "profile=fleet", "--data", "database=postgresql", cwd=folder)
    for profile, axes in PROFILES.items():
        commit(folder)
        with contextlib.redirect_stderr(io.StringIO()) as told:
            run_update(
                folder, {"profile": profile}, defaults=True, overwrite=True, vcs_ref=VcsRef.CURRENT
            )
        said = told.getvalue()
        assert "database=postgresql, job_store=database, executor=processpool" in said
        moving = " ".join(f"--data {axis}={value}" for axis, value in axes.items())
        moves = profile not in ("replicas-postgresql", "custom")
        assert (f"copier update {moving}\n" in said) == moves


def test_a_profile_that_is_changed_at_a_prompt_says_so_too(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "service"
    data = ("--data", "profile=replicas-postgresql")
    copier("copy", "--defaults", *data, str(released), "service", cwd=tmp_path)
    commit(folder)

    def answer(asked: list[Any], answers: dict[str, Any]) -> dict[str, Any]:
        (name,) = answers
        return {name: "fleet" if name == "profile" else answers[name]}

    monkeypatch.setattr(_main, "unsafe_prompt", answer)
    with contextlib.redirect_stderr(io.StringIO()) as told:
        run_update(folder, overwrite=True, vcs_ref=VcsRef.CURRENT)
    recorded = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    assert (recorded["profile"], recorded["executor"]) == ("fleet", "processpool")
    assert "A profile moves no answer" in told.getvalue()
    assert "--data executor=procrastinate" in told.getvalue()


def test_axes_that_were_chosen_beside_the_profile_are_no_news_at_each_update(
    released: Path, tmp_path: Path
) -> None:
    data = ("--data", "profile=replicas-redis", "--data", "executor=taskiq")
    copier("copy", "--defaults", *data, str(released), "service", cwd=tmp_path)
    commit(tmp_path / "service")
    same = ("update", "--defaults", "--vcs-ref", ":current:")
    said = copier(*same, cwd=tmp_path / "service")
    assert "executor=taskiq" in said
    assert "A profile moves no answer" not in said


def test_the_working_tree_renders_as_the_release_would(render: Render, tmp_path: Path) -> None:
    copier("copy", "--defaults", "--vcs-ref", "HEAD", str(ROOT), "service", cwd=tmp_path)
    assert manifest(tmp_path / "service") == manifest(render())


def test_the_same_through_pytest_copie(copie: Copie, released: Path) -> None:
    """Others test templates with it: it must see what users see."""
    made = copie.copy(template_dir=released, vcs_ref="v1.0.0", extra_answers={"license": "none"})
    assert made.exception is None
    assert made.exit_code == 0
    assert made.project_dir is not None
    assert not (made.project_dir / "LICENSE").exists()
    commit(made.project_dir)
    (released / "template/app/core/news.py").write_text('"""New."""\n')
    commit(released, "v2.0.0")
    updated = copie.update(made, vcs_ref="v2.0.0")
    assert updated.exception is None
    assert (made.project_dir / "app/core/news.py").exists()
    assert git("status", "--porcelain", "-uno", cwd=made.project_dir)
