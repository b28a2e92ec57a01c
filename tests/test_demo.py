"""`make demo`, as somebody does it who has just cloned the template."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.variants import ROOT

DEMO = ROOT / "tools" / "demo.py"


def test_the_demo_shows_a_job_that_really_ran(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), str(tmp_path / "service")],
        env={**os.environ, "DEMO_SECONDS": "0.5"},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("outcome    succeeded, attempt 1", "stored     61 contracts", "stopped"):
        assert expected in done.stdout


def test_the_demo_deletes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("important")
    done = subprocess.run(
        [sys.executable, str(DEMO), str(tmp_path)], text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert "is no service of ours" in done.stdout
    assert (tmp_path / "mine").exists()
