"""`make release-check`: is the last commit the release that it says it is?

With `quick`, as a release's own workflow asks: without the tests that `make test` has, too.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[1]


class NotReady(Exception):
    """What is in the way of the release, and what to do about it."""


def check(root: Path) -> str:
    """The tag that the last commit has, or is to get. Raises `NotReady`."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()

    if changes := git("status", "--porcelain"):
        raise NotReady(f"commit this first, or take it back:\n{changes}")
    version = version_of(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise NotReady(f'pyproject.toml: version = "{version}" is none of a release; e.g. "1.2.0"')
    heading = re.search(r"^## \[.*$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    first = heading[0] if heading else "nothing"
    if not re.fullmatch(rf"## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", first):
        raise NotReady(f"CHANGELOG.md begins with {first}: it must be ## [{version}] - YYYY-MM-DD")
    here = git("rev-parse", "HEAD")
    if git("log", "-1", "--format=%H", "-G^version = ", "--", "pyproject.toml") != here:
        raise NotReady(f"{here[:9]} is not the commit that changed the version: change it last")
    tag = f"v{version}"
    for name in git("tag", "--points-at", "HEAD").split():
        if name != tag:
            raise NotReady(f"Copier may record {name} as the version: git tag -d {name}")
    if git("tag", "--list", tag):
        if git("rev-parse", f"{tag}^{{commit}}") != here:
            raise NotReady(f"{tag} tags another commit: each version is released once")
        if git("cat-file", "-t", tag) != "tag":
            raise NotReady(f"{tag} is not annotated: git tag -f -a {tag} -m {tag}")
    return tag


def version_of(root: Path) -> str:
    """The one that pyproject.toml has."""
    document = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return str(document["project"]["version"])


def news(changelog: str, since: str) -> str:
    """What CHANGELOG.md says of all that came after the version."""
    return changelog.partition(f"\n## [{since.removeprefix('v')}]")[0]


def main() -> None:
    try:
        tag = check(_ROOT)
    except NotReady as error:
        sys.exit(str(error))
    if sys.argv[1:] == ["quick"]:
        print(f"this is {tag}")
        return
    tests = ("tests/test_releases.py", "tests/test_updates.py", "tests/test_shipping.py")
    if subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", *tests], check=False
    ).returncode:
        sys.exit(f"not ready to be {tag}")
    print(f"ready: git tag -a {tag} -m {tag} && git push --follow-tags")


if __name__ == "__main__":
    main()
