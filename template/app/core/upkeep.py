"""`make update` and `make drift`: this service, and the template that it was rendered from.

Copier itself exits with 0 when it leaves conflicts, and says nothing of a file of yours that it
deletes. Nothing of the service is imported here: it may be what is to be mended.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ANSWERS = Path(".copier-answers.yml")
OWNED = ("app/core", "tests/core", "tests/faults")
"""What belongs to the template: an update replaces it."""
_CONFLICT = "^(<<<<<<< before updating|>>>>>>> after updating)"


class Stop(Exception):
    """Why it goes no further, and what to do about it."""


def drift() -> None:
    """Say which files of the template were edited here. Raises `Stop` if any was."""
    with tempfile.TemporaryDirectory() as folder:
        edited = sorted(_edited(_rendered(Path(folder) / "rendered")))
    if edited:
        raise Stop(
            "The template owns these, and they are not as it made them. Move what is yours to "
            "app/jobs/, app/services/ or app/api/, or take them back with `git checkout`:\n  "
            + "\n  ".join(edited)
        )
    print(f"{', '.join(OWNED)}: as the template made them")


def update(arguments: list[str]) -> None:
    """Update, install and check; `arguments` go to `copier update`. Raises `Stop`."""
    if _git("status", "--porcelain"):
        raise Stop("there are changes that are not committed: commit them, then update")
    with tempfile.TemporaryDirectory() as folder:
        rendered = _rendered(Path(folder) / "rendered")
        for name in sorted(_edited(rendered)):
            print(f"edited here, though it is the template's: {name}", flush=True)
        before = _tracked()
        changed = {name for name in before if not _same(Path(name), rendered / name)}
        version = _answer("_commit")
        _run(_copier(), "update", "--defaults", *arguments)
        gone = {name for name in changed if not Path(name).exists()}
    problems = [f"has conflicts: {name}" for name in _lines("grep", "-lE", _CONFLICT)]
    others = _lines("ls-files", "--others", "--exclude-standard")
    problems += [f"was rejected: {name}" for name in others if name.endswith(".rej")]
    problems += [f"was yours, and is deleted: {name}" for name in sorted(gone)]
    if problems:
        raise Stop(
            "\n  ".join(["The update is here, but look at it first:", *problems])
            + "\nSettle that and commit, or go back with `git reset --hard && git clean -fd`."
        )
    if not _git("status", "--porcelain"):
        print(f"{version} is the newest version")
        return
    _run("make", "install", "check", "test")
    print(_git("add", "--intent-to-add", ".") + _git("diff", "--stat"))
    print(
        f"From {version} to {_answer('_commit')}, checked and tested. Read the CHANGELOG of "
        f"{_answer('_src_path')} between the two, look at `git diff`, and commit."
    )


def _rendered(folder: Path) -> Path:
    """What the template's recorded version makes of the recorded answers."""
    answers = folder.with_name("answers.yml")
    lines = ANSWERS.read_text(encoding="utf-8").splitlines(keepends=True)
    answers.write_text("".join(line for line in lines if not line.startswith("_")))
    version = ("--vcs-ref", _answer("_commit"), "--data-file", str(answers))
    _run(_copier(), "copy", "--defaults", "--quiet", *version, _answer("_src_path"), str(folder))
    return folder


def _edited(rendered: Path) -> Iterator[str]:
    """The files of the template that are not as it made them, or are not its own."""
    made = {
        str(path.relative_to(rendered))
        for owned in OWNED
        for path in (rendered / owned).rglob("*")
        if path.is_file()
    }
    ours = {name for name in _tracked() if name.startswith(tuple(f"{owned}/" for owned in OWNED))}
    return (name for name in made | ours if not _same(Path(name), rendered / name))


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _answer(name: str) -> str:
    found = re.search(rf"^{name}: '?(.*?)'?$", ANSWERS.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise Stop(
            f"{ANSWERS} has no {name}: it is not as Copier wrote it; see `git log {ANSWERS}`"
        )
    return found[1]


def _copier() -> str:
    if not (found := shutil.which("copier")):
        raise Stop('copier is not on the PATH; for example `pip install "copier>=9.19"`')
    return found


def _tracked() -> set[str]:
    return set(_git("ls-files", "-z").split("\0")) - {""}


def _lines(*arguments: str) -> list[str]:
    return _git(*arguments).splitlines()


def _git(*arguments: str) -> str:
    """What git says. Where nothing is found, `git grep` exits with 1."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise Stop(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise Stop(f"`{' '.join(command)}` failed")


if __name__ == "__main__":
    try:
        drift() if sys.argv[1] == "drift" else update(sys.argv[2:])
    except Stop as stop:
        sys.exit(str(stop))
