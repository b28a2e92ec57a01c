"""`make demo`, as somebody does it who has just cloned the template."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.variants import ROOT
from tools.demo import MARK

DEMO = ROOT / "tools" / "demo.py"


def demo(destination: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), str(destination)],
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_the_demo_shows_a_job_that_really_ran(tmp_path: Path) -> None:
    service = tmp_path / "service"
    done = demo(service, DEMO_SECONDS="0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("outcome    succeeded, attempt 1", "stored     61 contracts", "stopped"):
        assert expected in done.stdout
    assert (service / MARK).exists(), "the next demo may delete it"


STANDS_IN = """
import subprocess
import sys
from pathlib import Path
from tools import demo

serving = [sys.executable, "-c", "import time; print('serving', flush=True); time.sleep(600)"]
demo.start = lambda *_: subprocess.Popen(serving, start_new_session=True)
sys.exit(demo.main(Path(sys.argv[1])))
"""


def test_a_demo_that_is_terminated_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STANDS_IN, str(tmp_path / "service")],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": "--dry-run"},  # nothing is installed
        text=True,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout
        while "serving" not in (line := running.stdout.readline()):
            assert line, "it has ended by itself"
        running.terminate()
        said, _ = running.communicate(timeout=60)  # until nobody has it open any more
    assert "stopped" in said


def test_the_demo_fails_where_its_job_stores_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path / "service", DEMO_SECONDS="0.5", ESI_REGIONS="[1]")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the job did not succeed" in done.stdout


def test_the_demo_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    (tmp_path / "old").touch()
    demo(tmp_path, MAKEFLAGS="--dry-run")  # so it ends where it would start what it has rendered
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "app/main.py").exists()


@pytest.mark.parametrize(
    "there", [("mine",), (".copier-answers.yml", "app/mine"), (MARK, ".git/HEAD", "mine")], ids=str
)
def test_the_demo_deletes_nothing_that_is_not_its_own(
    tmp_path: Path, there: tuple[str, ...]
) -> None:
    """Not somebody's folder, not somebody's service, and no demo that somebody has kept."""
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("important")
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "no demo made it" in done.stdout
    assert all((tmp_path / name).read_text() == "important" for name in there)
