"""`make diff`: what a change of the template does to what it renders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.owner import change
from tests.variants import SHIPPED


def diff(template: Path, base: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tools.diff", base]
    return subprocess.run(command, cwd=template, capture_output=True, text=True, check=False)


def test_a_change_is_shown_as_it_comes_out_in_each_reference_variant(released: Path) -> None:
    change(released / "template/app/core/databases/sqlite.py", "one writer", "a single writer")
    done = diff(released, "v1.0.0")
    assert done.returncode == 0, done.stderr
    parts = dict(part.split("\n", 1) for part in done.stdout.split("==> ")[1:])
    assert parts.keys() == SHIPPED.keys()
    for name, shown in parts.items():
        on_sqlite = name in ("embedded", "everything-off")
        assert ("a single writer" in shown) == on_sqlite
        assert (shown.strip() == "no difference") == (not on_sqlite)


def test_a_base_that_is_not_there_is_named(released: Path) -> None:
    done = diff(released, "v0.0.9")
    assert done.returncode == 1
    assert "BASE='v0.0.9' is no version" in done.stderr
