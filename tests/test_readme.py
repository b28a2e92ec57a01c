"""The README of a rendered service: what it says to write works as it stands."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Render
from tests.test_variants import PYTEST, run

BLOCK = re.compile(r"^```python\n(# (app/\w+/\w+\.py)\n.*?)^```", re.MULTILINE | re.DOTALL)
USE = """
import pytest
from fastapi.testclient import TestClient

from app.core.scheduling import Run
from app.jobs.greetings import greet


@pytest.mark.anyio
async def test_a_greeting(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await greet(run, whom="everybody")
    assert "good morning, everybody" in caplog.text


def test_a_reminder(client: TestClient) -> None:
    asked = {"whom": "you", "at": "2100-01-01T08:00"}
    added = client.post("/reminders", params=asked)
    assert added.status_code == 202
    assert client.delete(f"/reminders/{added.json()}").status_code == 204
    assert client.delete(f"/reminders/{added.json()}").status_code == 404
"""


@pytest.mark.parametrize("example", [True, False], ids=["example", "none"])
@pytest.mark.parametrize("job_store", ["database", "memory"])
def test_the_jobs_and_routes_that_it_shows_work(
    fresh: Render, job_store: str, example: bool
) -> None:
    answers = {"profile": "custom", "job_store": job_store, "example": example}
    folder = fresh(**answers)
    blocks = BLOCK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert {name for _, name in blocks} == {
        "app/jobs/greetings.py",
        "app/jobs/reminders.py",
        "app/api/reminders.py",
    }
    for code, name in blocks:
        (folder / name).write_text(code, encoding="utf-8")
    (folder / "tests/test_readme.py").write_text(USE.lstrip(), encoding="utf-8")
    run(folder, answers, *PYTEST, "tests/test_readme.py", "tests/core/test_declaration.py")
    run(folder, answers, "ruff", "check", "--no-cache", "app")
    run(folder, answers, "mypy", "app")
