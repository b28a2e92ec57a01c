"""`make bench`: everything that is measured, or what is named: `python -m benchmarks claims`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.claims import claims
from benchmarks.engines import engines
from benchmarks.executors import executors
from benchmarks.figures import REPETITIONS, progress, spread
from benchmarks.firing import firing
from benchmarks.growth import growth
from benchmarks.http import http
from benchmarks.ledger import ledger
from benchmarks.memory import memory
from benchmarks.outage import outage
from benchmarks.pools import pools
from benchmarks.redis_locks import redis_locks
from benchmarks.reminders import reminders

ROOT = Path(__file__).parents[1]
COPIER = str(Path(sys.executable).with_name("copier"))
# Copier, but for the `git config` that it runs once for each file that it renders.
WITHOUT_GIT_CONFIG = """
import copier._main
from copier._cli import CopierApp
assert hasattr(copier._main.Worker, "_sync_git_index_executable_bit")
copier._main.Worker._sync_git_index_executable_bit = lambda *_: None
CopierApp.run()
"""
ZONES = {
    "app/core": ["app/core"],
    "yours": [
        "app/main.py",
        "app/settings.py",
        "app/jobs",
        "app/services",
        "app/api",
        "migrations",
    ],
    "tests of the core": ["tests/core", "tests/faults"],
    "your tests": ["tests/*.py"],
}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run(*command: str, cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def copy(source: Path, folder: Path, *copier: str) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ("copy", "--quiet", "--defaults", str(source), str(folder))
    return seconds(lambda: run(*(copier or (COPIER,)), *arguments, cwd=ROOT))


def exported(folder: Path) -> Path:
    """The template as a plain folder, so that both templates are read the same way."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def rendering(work: Path) -> None:
    """The default service against a template of one file: what Copier itself costs."""
    ours, one = exported(work / "ours"), work / "one"
    (one / "template").mkdir(parents=True)
    (one / "copier.yml").write_text("_subdirectory: template\n")
    (one / "template" / "README.md").write_text("One file.\n")
    without = (sys.executable, "-c", WITHOUT_GIT_CONFIG)
    rounds = [
        [
            copy(source, work / "service", *copier)
            for copier in ((), without)
            for source in (one, ours)
        ]
        for _ in progress("rendering", REPETITIONS)
    ]
    files = sum(path.is_file() for path in (work / "service").rglob("*"))
    small, full, small_without, full_without = zip(*rounds, strict=True)
    print(f"{'files rendered':<31} {files:6}")
    print(f"{'the default service':<31} {spread(full, 's')}")
    print(f"{'one file':<31} {spread(small, 's')}")
    print(f"{'ratio':<31} {spread(ratios(full, small))}   goal: at most 1.5")
    print("without the `git config` that Copier runs for each file:")
    print(f"{'the default service':<31} {spread(full_without, 's')}")
    print(f"{'one file':<31} {spread(small_without, 's')}")
    print(f"{'ratio':<31} {spread(ratios(full_without, small_without))}")


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def nothing_to_green(work: Path) -> None:
    """copy, install, test: with a package cache that is warm from a first round."""
    parts: dict[str, list[float]] = {"copier copy": [], "make install": [], "make test": []}
    folder, rounds = work / "green", max(3, REPETITIONS // 2)

    def install() -> None:
        run("make", "install", cwd=folder, PATH=f"{Path(COPIER).parent}:{os.environ['PATH']}")

    def test() -> None:
        run("make", "test", cwd=folder)

    for count in progress("from nothing to green", rounds + 1):
        took = [copy(ROOT, folder), *(seconds(make) for make in (install, test))]
        if count:
            for times, part in zip(parts.values(), took, strict=True):
                times.append(part)
    totals = [sum(part) for part in zip(*parts.values(), strict=True)]
    for name, times in parts.items():
        print(f"{name:<31} {spread(times, 's')}")
    print(f"{'from nothing to a green suite':<31} {spread(totals, 's')}   goal: 10 s")


def lines(work: Path) -> None:
    """Of the default rendering: all lines, and those of code (not blank, comment, docstring)."""
    folder = work / "lines"
    copy(ROOT, folder)
    for zone, places in ZONES.items():
        files = [
            file
            for place in places
            for path in folder.glob(place)
            for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))
        ]
        texts = [file.read_text(encoding="utf-8") for file in files]
        every = sum(len(text.splitlines()) for text in texts)
        code = sum(map(code_lines, texts))
        print(f"{zone:<20} {every:6} lines, {code:6} of code, {len(files)} files")


def code_lines(text: str) -> int:
    import ast
    import io
    import tokenize

    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
    used = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in (*skipped, tokenize.ENDMARKER)
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            used -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(used)


MEASURED: dict[str, Callable[[Path], None]] = {
    measure.__name__: measure
    for measure in (
        lines,
        rendering,
        nothing_to_green,
        claims,
        redis_locks,
        executors,
        pools,
        engines,
        memory,
        ledger,
        reminders,
        growth,
        firing,
        outage,
        http,
    )
}


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    chosen = sys.argv[1:] or list(MEASURED)
    if unknown := [name for name in chosen if name not in MEASURED]:
        sys.exit(f"{', '.join(unknown)}: there is no such part; there are {', '.join(MEASURED)}")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n{name.replace('_', ' ')}")
            MEASURED[name](Path(folder))


if __name__ == "__main__":
    main()
