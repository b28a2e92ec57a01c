"""`make diff BASE=v0.1.0`: what a change of the template does to the services that it renders.

For each reference variant, file by file, from that version to the files as they are now.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import copier

from tests.variants import ROOT, SHIPPED, Answers


def diff(base: str, answers: Answers, folder: Path) -> str:
    for name, version in (("before", base), ("after", "HEAD")):
        copier.run_copy(
            str(ROOT), folder / name, data=answers, defaults=True, quiet=True, vcs_ref=version
        )
        (folder / name / ".copier-answers.yml").unlink()  # the version itself is no difference
    shown = subprocess.run(
        ["git", "diff", "--no-index", "--stat", "--patch", "--find-renames", "before", "after"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull},
    )
    if shown.returncode > 1:
        sys.exit(shown.stderr)
    return shown.stdout


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else ""
    known = ["git", "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}"]
    if not base or subprocess.run(known, cwd=ROOT, capture_output=True, check=False).returncode:
        sys.exit(f"BASE={base!r} is no version of this repository; for example make diff BASE=HEAD")
    for name, answers in SHIPPED.items():
        with tempfile.TemporaryDirectory() as folder:
            shown = diff(base, answers, Path(folder))
        print(f"==> {name}\n{shown or 'no difference'}", flush=True)


if __name__ == "__main__":
    main()
