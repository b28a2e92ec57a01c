"""Readiness tells the truth, and the web part serves without the database."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.app import create_app
from app.core.database import current
from app.core.service import Service
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import servers
from tests.core.waiting import outcomes


def ready(client: TestClient, seconds: float = 30) -> dict[str, object]:
    """The checks, once they all pass."""
    deadline = time.monotonic() + seconds
    while (response := client.get("/health/ready")).status_code != 200:
        assert time.monotonic() < deadline, response.text
        time.sleep(0.02)
    checks: dict[str, object] = response.json()["checks"]
    return checks


def test_a_started_service_is_live_and_ready(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/live").json() == {"status": "alive"}
        assert ready(client) == {"database": "ok", "scheduler": "ok"}


def test_a_service_that_does_not_schedule_says_so(client: TestClient) -> None:
    assert ready(client) == {"database": "ok", "scheduler": "disabled"}


def test_a_scheduler_whose_passes_have_stopped_is_not_ready(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        ready(client)
        scheduler = client.app.state.scheduler  # type: ignore[attr-defined]
        assert client.portal
        client.portal.call(scheduler._passing.cancel)
        scheduler.last_pass = time.monotonic() - 60
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert "the last good pass was 6" in response.json()["checks"]["scheduler"]
        assert scheduler.running


def test_without_its_database_it_serves_and_says_why_it_is_not_ready(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(database_url=servers.unreachable(tmp_path))
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/live").status_code == 200
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["checks"]["database"].startswith("does not answer")
        assert "start" in response.json()["checks"]


def test_a_schema_that_is_behind_is_named_and_the_service_starts_when_it_is_there(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.service._RETRY", 0.05)
    settings = make_settings(database_url=servers.empty(tmp_path), migrate_on_start=False)
    with TestClient(create_app(settings)) as client:
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "run `make migrate`" in response.json()["checks"]["start"]
        migrating = settings.model_copy(update={"migrate_on_start": True})
        with TestClient(create_app(migrating.model_copy(update={"scheduler_enabled": False}))):
            assert ready(client)["scheduler"] == "ok"


@pytest.mark.anyio
async def test_a_start_that_fails_leaves_nothing_open(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, app, before = Service.begin, create_app(settings), asyncio.all_tasks()

    async def fail_at_the_end(service: Service) -> None:
        await whole(service)
        # So that there is a worker process, too.
        note = {"jobstore": "memory", "executor": "processpool"}
        added = await service.scheduler.add_job_async(
            sample_jobs.note, kwargs={"file": str(tmp_path / "note")}, **note
        )
        await outcomes(service.database, added.id)
        assert len(asyncio.all_tasks()) > len(before) + 2
        raise ZeroDivisionError("a later step of the start")

    monkeypatch.setattr(Service, "begin", fail_at_the_end)
    monkeypatch.setattr("app.core.service._PATIENCE", 60)
    with pytest.raises(ZeroDivisionError):
        async with app.router.lifespan_context(app):
            pass
    database, worker = app.state.database, int((tmp_path / "note").read_text().split()[0])
    assert asyncio.all_tasks() == before
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert not database._yours
    assert not database._own
    with pytest.raises(RuntimeError, match="no database is open"):
        current()
    monkeypatch.setattr(Service, "begin", whole)
    async with app.router.lifespan_context(app):
        assert app.state.service.starting is None
