"""Readiness tells the truth, and the web part serves without the database."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.app import create_app
from app.settings import Settings
from tests.core.fixtures import servers


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
        assert "the last good pass was 60 s ago" in response.json()["checks"]["scheduler"]
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
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings)

    async def broken() -> None:
        raise ZeroDivisionError("a later step of the start")

    async with app.router.lifespan_context(app):
        service = app.state.service
    monkeypatch.setattr("app.core.service.Service._try_to_start", lambda self: broken())
    with pytest.raises(ZeroDivisionError):
        async with app.router.lifespan_context(app):
            pass
    assert app.state.service is not service
    assert app.state.service._stopped
