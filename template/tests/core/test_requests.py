"""Requests: an id, one line each, and errors that say what is wrong."""

import io
import json
import logging

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from app.core.logging import (
    ConsoleFormatter,
    JsonFormatter,
    configure_logging,
    in_words,
    log_context,
)
from app.core.problems import add_problem_details
from app.core.requests import RequestLog
from app.settings import Settings


@pytest.fixture
def api() -> TestClient:
    app = FastAPI()
    app.add_middleware(RequestLog)
    add_problem_details(app)

    @app.get("/items/{number}")
    async def item(number: int) -> int:
        logging.getLogger("yours").warning("inside")
        if number == 0:
            raise HTTPException(409, "taken", headers={"Retry-After": "1"})
        return 1 // (number - 1)

    return TestClient(app, raise_server_exceptions=False)


def test_a_request_has_an_id_and_one_line(
    api: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    response = api.get("/items/2", headers={"X-Request-ID": "from-the-caller"})
    assert response.headers["x-request-id"] == "from-the-caller"
    (line,) = [vars(r) for r in caplog.records if r.name == "app.requests"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/items/2", 200)
    forged = api.get("/items/2", headers={"X-Request-ID": 'x" level="ERROR'})
    assert len(forged.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/items/2", ["yours: inside", "app.requests: request"]),
        ("/items/0", ["yours: inside", "app.requests: request"]),
        (
            "/items/1",
            ["yours: inside", "app.requests: request", "app.core.problems: unhandled error"],
        ),
    ],
)
def test_every_line_of_a_request_has_the_id_that_it_answers_with(
    api: TestClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    lines: list[str],
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(settings)
    response = api.get(path, headers={"X-Request-ID": "from-the-caller"})
    assert response.headers.get_list("x-request-id") == ["from-the-caller"]
    written = list(map(json.loads, stream.getvalue().splitlines()))
    assert [f"{line['logger']}: {line['message']}" for line in written] == lines
    assert {line["request_id"] for line in written} == {"from-the-caller"}


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/items/0", 409, "taken"),
        ("/items/x", 422, "the request is not valid"),
        ("/items/1", 500, "an unexpected error; the log says more"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_an_error_is_a_problem(api: TestClient, path: str, status: int, detail: str) -> None:
    response = api.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == detail
    assert response.headers.get("retry-after") == ("1" if status == 409 else None)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_every_line_carries_its_context_whoever_logs_it(
    settings: Settings, log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(settings.model_copy(update={"log_format": log_format}))
    with log_context(request_id="r1"), log_context(job="j1"):
        logging.getLogger("uvicorn.error").warning("serving %s", "you", extra={"port": 80})
        try:
            raise OSError("broken")
        except OSError:
            logging.getLogger("apscheduler.scheduler").exception("oh")
    logging.getLogger("apscheduler.scheduler").info("chatter")
    text = stream.getvalue()
    assert "chatter" not in text
    assert "OSError: broken" in text
    if log_format == "json":
        first, second = map(json.loads, text.splitlines())
        assert first["message"] == "serving you"
        assert (first["request_id"], first["job"], first["port"]) == ("r1", "j1", 80)
        assert second["level"] == "ERROR"
    else:
        assert "uvicorn.error: serving you  request_id=r1 job=j1 port=80" in text


def test_a_line_without_context_is_a_line() -> None:
    record = logging.makeLogRecord({"msg": "plain", "levelname": "INFO", "name": "x"})
    assert json.loads(JsonFormatter().format(record))["message"] == "plain"
    assert ConsoleFormatter().format(record).endswith("x: plain")


def test_an_error_without_words_is_called_by_its_name() -> None:
    assert in_words(ValueError("this and that")) == "this and that"
    assert in_words(TimeoutError()) == "TimeoutError"
