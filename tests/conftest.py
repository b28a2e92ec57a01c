"""Rendering, once for each set of answers, away from the developer's own settings."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import resource
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import copier
import copier._main
import copier._template
import copier._vcs
import jinja2
import psutil
import pytest

from tests.image import possible
from tests.variants import ROOT, command

HERMETIC = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.invalid",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.invalid",
    "COPIER_SETTINGS_PATH": str(ROOT / "tests" / "empty-settings.yml"),
    "UV_PYTHON_DOWNLOADS": "never",
    "PROCESSES": "2",  # of `make test` in a service, of which some run at a time
}
Render = Callable[..., Path]
LONGEST = (
    "gets_from_the_readme_to_a_service",
    "every_step_of_ci_passes",
    "a_package_manager_installs",
    "the_pythons_between",
    "a_reference_variant_works",
    "nearly_all_of_the_core",
    "a_service_of_each_release",
    "the_suite_is_green_after",
    "becomes_a_request",
    "complete_without_the_example",
    "the_example_can_be_deleted",
    "the_example_appears",
    "what_is_done_to_whole_processes",
    "its_own_suite_is_green",
)
"""Longest first."""
MEMORY = Path("/dev/shm")
_MUCH = 8 << 30
"""Bytes of memory that must be free for it to be used: these tests write less than two."""
collect_ignore = [] if possible() else ["test_image.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.option.template = str(ROOT)  # pytest-copie's own default is the working directory
    if hasattr(config, "workerinput"):  # of pytest-xdist
        return
    config.pluginmanager.register(AtOnce(config))
    if config.option.basetemp is None and (folder := in_memory()):
        config.option.basetemp = str(folder / "tests")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def in_memory() -> Path | None:
    """A folder for what is rendered, if there is plenty of memory.

    Tests make and remove ten thousands of folders: some disks take a hundred times as long.
    """
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    for old in MEMORY.glob("template-tests-*"):  # of a run that was killed
        if not psutil.pid_exists(int(old.name.rpartition("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    if min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) < _MUCH:
        return None
    folder = MEMORY / f"template-tests-{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each process of several begins with a share of what takes longest: nobody ends alone."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    def place(item: pytest.Item) -> int:
        names = [position for position, name in enumerate(LONGEST) if name in item.nodeid]
        return names[0] if names else len(LONGEST)

    ordered = sorted(items, key=place)
    items[:] = [item for share in range(processes) for item in ordered[share::processes]]


class AtOnce:
    """Shows a failure when it happens: the summary comes half an hour later."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.longreprtext}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each kind of test took: the time of the suites is the time of the matrix."""
    took: dict[str, list[tuple[float, float]]] = {}
    suites: list[Any] = []
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            processor = dict(report.user_properties).get("processor", 0.0)
            name = report.nodeid.partition("[")[0]
            took.setdefault(name, []).append((processor, report.duration))
            suites += [report] if "::test_its_own_suite_is_green[" in report.nodeid else []
    if not took:
        return
    sums = {name: [sum(each) for each in zip(*times, strict=True)] for name, times in took.items()}
    terminalreporter.section("seconds of the processor, and of work, by test")
    for name, (processor, seconds) in sorted(sums.items(), key=lambda item: -item[1][0])[:15]:
        line = f"{processor:7.1f} s {seconds:7.1f} s  {len(took[name]):4} x  {name}"
        terminalreporter.write_line(line)
    processor, seconds = (sum(each) for each in zip(*sums.values(), strict=True))
    terminalreporter.write_line(f"{processor:7.1f} s {seconds:7.1f} s  all")
    if suites:
        minutes = (max(each.stop for each in suites) - min(each.start for each in suites)) / 60
        terminalreporter.write_line(
            f"From the first of {len(suites)} suites of variants alone to the end of the last: "
            f"{minutes:.1f} minutes; the others of the 66 run where more is tried of them. All in "
            "at most 10 on two cores is the goal"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of a variant that fails: what renders it alone."""
    report = yield
    parameters = getattr(item, "callspec", None)
    answers = parameters.params.get("answers") if parameters else None
    if report.failed and answers is not None:
        report.sections.append(("To render it alone", command(answers)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Note what it took of the processor, its processes included."""
    before = _processor()
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor", _processor() - before))


def _processor() -> float:
    own, ended = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def run(*command: str, cwd: Path, repeat: str = "", **environment: str) -> str:
    """What a command says that must succeed; `repeat` tells how to do it again."""
    done = subprocess.run(
        command,
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    said = f"{shlex.join(command)}\n{done.stdout}{done.stderr}\n\n{repeat}"
    assert done.returncode == 0, said
    return done.stdout


def strings(node: Any) -> Iterator[str]:
    """Every text in what was read from YAML."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


def git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, check=True, text=True, capture_output=True)
    return done.stdout


def commit(folder: Path, tag: str | None = None) -> None:
    """Commit everything; the first time, make it a repository."""
    if not (folder / ".git").exists():
        git("init", "-q", "-b", "main", cwd=folder)
    git("add", "-A", cwd=folder)
    git("commit", "-qm", "work", "--allow-empty", cwd=folder)
    if tag:
        git("tag", "-a", tag, "-m", tag, cwd=folder)


def manifest(folder: Path) -> dict[str, str]:
    """Each file's hash, Copier's record and what running it left behind apart."""
    left = {".git", ".venv", "__pycache__", ".copier-answers.yml"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not left & set(path.relative_to(folder).parts)
    }


@pytest.fixture(scope="session", autouse=True)
def _hermetic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for name, value in HERMETIC.items():
        patch.setenv(name, value)
    patch.setenv("COPIER_CACHE_DIR", str(tmp_path_factory.mktemp("copier")))
    # What services have in common, in whichever environment, is checked once.
    patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.mktemp("mypy")))
    patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # quadruples every start of Python
    # One `git config` for each rendered file: three quarters of the time of a rendering.
    assert hasattr(copier._main.Worker, "_sync_git_index_executable_bit")
    patch.setattr(copier._main.Worker, "_sync_git_index_executable_bit", lambda *_: None)
    patch.setattr(jinja2.Environment, "compile", compiled_once(jinja2.Environment.compile))
    folder = tmp_path_factory.mktemp("clones")
    patch.setattr(copier._template, "clone", cloned_once(copier._vcs.clone, folder))
    for module in (copier._main, copier._template, copier._vcs):
        for function in ("mkdtemp", "TemporaryDirectory"):
            if hasattr(module, function):
                here = functools.partial(getattr(tempfile, function), dir=folder)
                patch.setattr(module, function, here)
    patch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path_factory.mktemp("suites")))
    yield
    patch.undo()


def cloned_once(clone: Callable[..., str], folder: Path) -> Callable[..., str]:
    """Copier clones a template five times for one update, each time for a third of a second."""
    made: dict[tuple[str, str], str] = {}

    def cached(url: str, ref: str = "HEAD", location: str | None = None) -> str:
        if location is None or not ref.startswith("v") or not Path(url).is_dir():
            return clone(url, ref, location)
        key = url, git("rev-parse", f"{ref}^{{commit}}", cwd=Path(url))
        if key not in made:
            made[key] = clone(url, ref, tempfile.mkdtemp(dir=folder))
        shutil.copytree(made[key], location, copy_function=os.link, dirs_exist_ok=True)
        return location

    return cached


def compiled_once(compile: Callable[..., Any]) -> Callable[..., Any]:
    """Copier compiles the same thousand texts for each rendering: half of its time."""
    made: dict[object, Any] = {}

    def cached(self: jinja2.Environment, *arguments: Any, **more: Any) -> Any:
        key = (arguments, tuple(more.items()), self.trim_blocks, self.keep_trailing_newline)
        if key not in made:
            made[key] = compile(self, *arguments, **more)
        return made[key]

    return cached


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it is in the working tree, without its history."""
    folder = tmp_path_factory.mktemp("template")
    for name in git("ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def render(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render once for each set of answers; what it gives is for reading only."""
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine

    def render(**answers: Any) -> Path:
        key = hashlib.sha256(repr(sorted(answers.items())).encode()).hexdigest()[:16]
        made = shared / f"rendered-{key}"
        if not made.exists():
            folder = tmp_path_factory.mktemp("render") / "service"
            # unsafe stays False: this fails the day the template needs --trust.
            with contextlib.redirect_stderr(io.StringIO()):
                copier.run_copy(str(snapshot), folder, data=answers, defaults=True, quiet=True)
            with contextlib.suppress(OSError):  # another process was faster
                folder.rename(made)
        return made

    return render


@pytest.fixture
def fresh(render: Render, tmp_path: Path) -> Render:
    """A rendering to work in."""

    def fresh(**answers: Any) -> Path:
        folder = tmp_path / f"service{len(list(tmp_path.iterdir()))}"
        shutil.copytree(render(**answers), folder)
        return folder

    return fresh


@pytest.fixture(scope="session")
def current(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it is, released as v1.0.0; not to be changed."""
    folder = tmp_path_factory.mktemp("current") / "template"
    shutil.copytree(snapshot, folder)
    commit(folder, "v1.0.0")
    return folder


@pytest.fixture
def released(current: Path, tmp_path: Path) -> Path:
    """The same, for tests that release a v2.0.0."""
    return Path(shutil.copytree(current, tmp_path / "template", symlinks=True))


@pytest.fixture
def apart() -> Iterator[Path]:
    """A folder outside of pytest's own: the pytest of a service would close that to its server."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as somebody else where we are root
        yield Path(folder)
