"""What ships a service: each file valid, exactly what the answers need, and its commands work."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Render, commit, git, run, strings
from tests.image import instructions
from tests.owner import TEMPLATES, change, is_yours
from tests.test_cli import copier
from tests.variants import REFERENCES, STEPPED, Answers, covering, name_of

BIN = Path(sys.executable).parent
FORGES = ("github", "gitlab")
EACH = pytest.mark.parametrize(
    "answers",
    [{**answers, "docker": True, "ci": ci} for answers in REFERENCES.values() for ci in FORGES],
    ids=name_of,
)
# A runner's: git has no identity there.
SHELL = (
    *("env", "-uGIT_AUTHOR_NAME", "-uGIT_AUTHOR_EMAIL", "-uGIT_COMMITTER_NAME"),
    *("-uGIT_COMMITTER_EMAIL", "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"),
)
SCHEMAS = {
    "compose.yaml": "compose-spec",
    ".github/workflows/ci.yml": "github-workflows",
    ".github/workflows/update.yml": "github-workflows",
    ".github/dependabot.yml": "dependabot",
    ".gitlab-ci.yml": "gitlab-ci",
    ".gitlab/update.yml": "gitlab-ci",
    "renovate.json": "renovate",
}


def every(render: Render, name: str, folder: Path) -> list[str]:
    """Each text that this file can have, written below the folder under its own name."""
    texts = {
        path.read_text(encoding="utf-8")
        for answers in covering()
        if (path := render(**answers) / name).exists()
    }
    written = [folder / str(number) / name for number in range(len(texts))]
    for path, text in zip(written, sorted(texts), strict=True):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    assert written, f"no answer gives {name}"
    return [str(path) for path in written]


def read(folder: Path, name: str) -> Any:
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_keeps_to_its_schema(render: Render, tmp_path: Path, name: str) -> None:
    schema = f"vendor.{SCHEMAS[name]}"
    files = every(render, name, tmp_path)
    run(str(BIN / "check-jsonschema"), "--builtin-schema", schema, *files, cwd=tmp_path)


def test_no_linter_objects_to_a_dockerfile(render: Render, tmp_path: Path) -> None:
    run(str(BIN / "hadolint"), *every(render, "Dockerfile", tmp_path), cwd=tmp_path)


def test_no_linter_objects_to_a_workflow(render: Render, tmp_path: Path) -> None:
    every(render, ".github/workflows/ci.yml", tmp_path)
    for answers in ({}, {"package_manager": "poetry"}):
        folder = str(render(**answers))
        run(str(BIN / "zizmor"), "--offline", "--quiet", folder, str(tmp_path), cwd=tmp_path)


def test_actions_are_pinned_by_digest(render: Render) -> None:
    for path in (render() / ".github/workflows").iterdir():
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"uses: (\S+)( .*)?", text)
        assert used
        for action, comment in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v[\d.]+", comment), action


@EACH
def test_no_two_places_look_alike_to_a_merge(render: Render, answers: Answers) -> None:
    """An owner's line lands where it was written: no six lines stand in a shared file twice."""
    folder = render(**answers)
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not is_yours(name) and not name.startswith(TEMPLATES):
            lines = path.read_text(encoding="utf-8").splitlines()
            windows = ["\n".join(lines[n : n + 6]) for n in range(len(lines) - 5)]
            assert len(windows) == len(set(windows)), name


@EACH
def test_compose_runs_exactly_what_the_answers_need(render: Render, answers: Answers) -> None:
    folder = render(**answers)
    chosen, compose = read(folder, ".copier-answers.yml"), read(folder, "compose.yaml")
    needed = {"web"}
    if chosen["database"] == "postgresql":
        needed |= {"migrate", "postgres"}
    if chosen["executor"] in ("procrastinate", "taskiq"):
        needed |= {"worker"}
    if "redis" in (chosen["job_store"], chosen["lock_backend"]) or chosen["executor"] == "taskiq":
        needed |= {"valkey"}
    services = compose["services"]
    assert set(services) == needed
    for name, service in services.items():
        ours = name in ("web", "migrate", "worker")
        assert ours == (service.get("image") == chosen["project_name"])
        assert bool(service.get("read_only")) == ours
        assert name in ("migrate", "worker", "web") or "healthcheck" in service
        for other, how in service.get("depends_on", {}).items():
            waited = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert how["condition"] == waited
        waits = needed - {"web", "worker", "migrate"}
        if name in ("web", "worker"):
            reached = set(service.get("depends_on", {}))
            reached |= set(services.get("migrate", {}).get("depends_on", {}))
            assert waits <= reached, "it starts before what it needs"
    mounted = {v.partition(":")[0] for s in services.values() for v in s.get("volumes", ())}
    assert mounted == set(compose["volumes"])


@EACH
def test_no_password_is_known_before_the_owner_sets_one(render: Render, answers: Answers) -> None:
    folder = render(**answers)
    used = {
        match
        for text in strings(read(folder, "compose.yaml"))
        for match in re.findall(r"\$\{([^}]*)\}", text)
    }
    example = (folder / ".env.example").read_text(encoding="utf-8")
    for variable in used - {"PORT:-8000"}:
        name, _, message = variable.partition(":?")
        assert message == "set it in .env", variable
        assert f"# {name}=\n" in example
    text = (folder / "compose.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?i)password['\"]?: (?!\$)", text)


@EACH
def test_the_service_is_given_the_time_to_stop(render: Render, answers: Answers) -> None:
    folder = render(**answers)
    (command,) = (json.loads(w) for n, w in instructions(folder / "Dockerfile") if n == "CMD")
    requests = float(command[command.index("--timeout-graceful-shutdown") + 1])
    settings = (folder / "app/core/settings.py").read_text(encoding="utf-8")
    (jobs,) = re.findall(r"shutdown_grace_seconds: float = Field\(default=(\d+)", settings)
    for service in read(folder, "compose.yaml")["services"].values():
        if "read_only" in service:
            assert float(service["stop_grace_period"].removesuffix("s")) > requests + float(jobs)


@EACH
def test_ci_tests_on_the_servers_that_the_answers_need(render: Render, answers: Answers) -> None:
    folder = render(**answers)
    chosen = read(folder, ".copier-answers.yml")
    settings = {
        "DATABASE_URL": chosen["database"] == "postgresql",
        "JOB_STORE_URL": chosen["job_store"] == "redis",
        "LOCK_URL": chosen["lock_backend"] == "redis",
        "BROKER_URL": chosen["executor"] == "taskiq",
    }
    if answers["ci"] == "github":
        job = read(folder, ".github/workflows/ci.yml")["jobs"]["make"]
        given, servers = job["env"], list(job.get("services", ()))
    else:
        job = read(folder, ".gitlab-ci.yml")["make"]
        given = job.get("variables", {})
        servers = [s["alias"] if isinstance(s, dict) else s for s in job.get("services", ())]
        servers = [name.partition(":")[0] for name in servers]
    urls = {name for name in given if name.endswith("_URL")}
    assert urls == {name for name, needed in settings.items() if needed}
    needed = {"postgres"} & ({"postgres"} if settings["DATABASE_URL"] else set())
    needed |= {"valkey"} if urls - {"DATABASE_URL"} else set()
    assert set(servers) == needed


@EACH
def test_agents_are_told_in_25_lines_what_is_there(render: Render, answers: Answers) -> None:
    folder = render(**answers)
    text = (folder / "AGENTS.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    targets = set(re.findall(r"^([a-z-]+):", (folder / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"^make ([a-z -]+)(?!=)\b", text, re.MULTILINE):
        assert set(line.split()) <= targets
    for name in re.findall(r"`([\w.]+(?:/[\w.]+)*/?)`", text):
        if "/" in name or (folder / name).suffix in (".toml", ".example"):
            assert (folder / name).exists(), name
        elif name.startswith("app."):
            assert (folder / f"{name.replace('.', '/')}.py").exists() or (
                folder / name.replace(".", "/")
            ).is_dir()


def test_hooks_run_the_projects_own_tools(fresh: Render) -> None:
    """Offline; and each of them can go red."""
    folder = fresh()
    (folder / ".venv").symlink_to(BIN.parent)
    commit(folder)
    prek = functools.partial(run, str(BIN / "prek"), cwd=folder)
    prek("validate-config", ".pre-commit-config.yaml")
    prek("run", "--all-files")
    hooks = [hook["id"] for hook in read(folder, ".pre-commit-config.yaml")["repos"][0]["hooks"]]
    path = folder / "app/core/settings.py"
    bad = "import app.core.app\nx:int = ''\n" + path.read_text(encoding="utf-8")
    for hook in hooks:
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(AssertionError, match="Failed"):
            prek("run", "--all-files", hook)


class Clone:
    """A fresh clone of a rendered project, and what a runner gives its steps."""

    def __init__(self, folder: Path, apart: Path) -> None:
        commit(folder)
        git("clone", "-q", "--bare", str(folder), str(apart / "origin.git"), cwd=apart)
        git("clone", "-q", str(apart / "origin.git"), "clone", cwd=apart)
        self.folder = apart / "clone"
        self.output = apart / "output"
        self.output.touch()
        python = apart / "python"
        run(sys.executable, "-m", "venv", str(python), cwd=apart)
        self.environment = {
            "PATH": f"{apart / 'bin'}:{python / 'bin'}:{os.defpath}",
            "GITHUB_OUTPUT": str(self.output),
            "CI": "true",
        }

    def step(self, script: str, **environment: str) -> str:
        return run(*SHELL, script, cwd=self.folder, **{**self.environment, **environment})


def test_every_step_of_ci_passes_in_a_fresh_clone(fresh: Render, apart: Path) -> None:
    """But for those that need an engine. A newly found vulnerability is no failure."""
    clone = Clone(fresh(**STEPPED), apart)
    job = read(clone.folder, ".github/workflows/ci.yml")["jobs"]["make"]
    targets = job["strategy"]["matrix"]["target"]
    steps = [step["run"] for step in job["steps"] if "run" in step]
    for script in steps[:-1]:
        clone.step(script)
    assert steps[-1] == 'make "$TARGET"'
    for target in targets:
        try:
            clone.step(steps[-1], TARGET=target)
        except AssertionError as error:
            if target != "audit" or "known vulnerabilit" not in str(error):
                raise
    assert git("status", "--porcelain", cwd=clone.folder) == "?? uv.lock\n"


def test_gitlab_runs_the_same_steps(render: Render) -> None:
    """The test above carries them out."""
    github = read(render(ci="github"), ".github/workflows/ci.yml")["jobs"]["make"]
    gitlab = read(render(ci="gitlab"), ".gitlab-ci.yml")["make"]
    steps = [step["run"] for step in github["steps"] if "run" in step]
    assert gitlab["script"] == steps
    (row,) = gitlab["parallel"]["matrix"]
    assert row["TARGET"] == github["strategy"]["matrix"]["target"]


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_a_new_version_of_the_template_becomes_a_request(
    released: Path, apart: Path, ci: str
) -> None:
    """Its conflicts named: Copier itself says nothing of them in its exit code."""
    copier("copy", "--defaults", "--data", f"ci={ci}", str(released), "service", cwd=apart)
    if ci == "github":
        change(apart / "service/Dockerfile", "EXPOSE 8000", "EXPOSE 9000")
    clone = Clone(apart / "service", apart)
    record = apart / "record"
    # What the two sites do at the other end.
    program(apart / "bin/gh", f'echo "$@" >> {record}; test "$2" != list || cat {apart}/open')
    (apart / "open").touch()
    program(apart / "origin.git/hooks/post-receive", f"env | grep GIT_PUSH_OPTION >> {record}")
    git("config", "receive.advertisePushOptions", "true", cwd=apart / "origin.git")
    address = "https://update:token@gitlab.invalid/group/service.git"
    git("config", f"url.{apart / 'origin.git'}.insteadOf", address, cwd=clone.folder)
    remote = ("git", "ls-remote", "--heads", "origin", "template-update")

    weekly(clone, ci)
    assert run(*remote, cwd=clone.folder) == "", "nothing is new"
    (released / "template/app/core/news.py").write_text('"""New."""\n')
    change(released / "template/Dockerfile.jinja", "EXPOSE 8000", "EXPOSE 8080")
    commit(released, "v2.0.0")
    weekly(clone, ci)
    assert "template-update" in run(*remote, cwd=clone.folder)
    files = run("git", "diff", "--name-only", "main", "template-update", cwd=clone.folder)
    assert {"app/core/news.py", ".copier-answers.yml", "Dockerfile", "uv.lock"} == set(
        files.split()
    )
    asked = record.read_text()
    if ci == "github":
        assert "pr create --head template-update --title Update from the template" in asked
        assert "Conflicts: Dockerfile." in asked
    else:
        assert "=merge_request.create\n" in asked
        assert "=merge_request.description=Conflicts: none." in asked
        assert "=merge_request.title=Update from the template\n" in asked

    # A week later it is replaced, unless its owner has worked on it.
    (apart / "open").write_text("7\n")
    first = another_week(clone, ci, remote)
    assert ("pr edit 7 --body Conflicts: Dockerfile." in record.read_text()) == (ci == "github")
    git("commit", "--quiet", "--allow-empty", "--message", "Settled", cwd=clone.folder)
    git("push", "--quiet", "origin", "template-update", cwd=clone.folder)
    settled = run(*remote, cwd=clone.folder)
    assert another_week(clone, ci, remote) == settled != first


def another_week(clone: Clone, ci: str, remote: tuple[str, ...]) -> str:
    """What the branch is at the other end after it."""
    git("switch", "--quiet", "main", cwd=clone.folder)
    git("branch", "--quiet", "-D", "template-update", cwd=clone.folder)
    weekly(clone, ci)
    return run(*remote, cwd=clone.folder)


def program(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def weekly(clone: Clone, ci: str) -> None:
    """The steps of the update, as the runner carries them out."""
    if ci == "gitlab":
        script = read(clone.folder, ".gitlab/update.yml")["update"]["script"]
        variables = {"CI_SERVER_HOST": "gitlab.invalid", "CI_PROJECT_PATH": "group/service"}
        clone.step("\n".join(script), UPDATE_TOKEN="token", **variables)
        return
    clone.output.write_text("")
    for step in read(clone.folder, ".github/workflows/update.yml")["jobs"]["update"]["steps"]:
        condition = step.get("if", "")
        if condition:
            name, value = re.findall(r"outputs\.(\w+) == '(\w+)'", condition)[0]
            if f"{name}={value}\n" not in clone.output.read_text():
                continue
        if "run" in step:
            clone.step(step["run"])
