"""What a service leaves behind: lines in its log, rows in its database, and no process."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from app.core.logging import configure_logging
from app.core.service import Service
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import canaries, stored
from tests.core.waiting import outcomes

CANARY = "canary-4711-secret"


@dataclass
class Traces:
    settings: Settings
    log: str
    rows: str
    worker: int
    arguments: bytes

    def lines(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line[:1] == "{"]
        return [line for line in lines if line["message"] == message]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def traces(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> Traces:
    """Of a service that has run a job on each executor, and has stopped."""
    folder = tmp_path_factory.mktemp("traces")
    secrets: dict[str, Any] = canaries(new_database(), CANARY)
    settings = Settings(environment="test", log_level="DEBUG", **secrets)
    with standard_error(folder / "log"):
        configure_logging(settings)
        service = Service(settings, {})
        await service.start()
        await service.scheduler.add_job_async(
            sample_jobs.speak, "date", run_date="2100-01-01", id="kept-for-later"
        )
        for executor in ("asyncio", "threadpool", "processpool"):
            await run(service, sample_jobs.speak, executor)
            await run(service, sample_jobs.speak_async, executor)
        await run(service, sample_jobs.note, "processpool", file=str(folder / "note"))
        worker = int((folder / "note").read_text().split()[0])
        arguments = Path(f"/proc/{worker}/cmdline")
        read = arguments.read_bytes() if arguments.exists() else b""
        rows = stored(settings, service.database)
        assert ("kept-for-later" in rows) == bool(service.definitions)
        await service.stop()
    return Traces(settings, (folder / "log").read_text(), rows, worker, read)


async def run(service: Service, job: Any, executor: str, **kwargs: str) -> None:
    added = await service.scheduler.add_job_async(
        job, jobstore="memory", executor=executor, kwargs=kwargs
    )
    assert await outcomes(service.database, added.id) == ["succeeded"]


@contextmanager
def standard_error(path: Path) -> Iterator[None]:
    """Into a file, for this process and those that it starts."""
    before = os.dup(2)
    with path.open("w") as file, pytest.MonkeyPatch.context() as patch:
        os.dup2(file.fileno(), 2)
        patch.setattr("sys.stderr", file)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def test_every_line_of_a_run_names_it_on_every_executor(traces: Traces) -> None:
    spoken = traces.lines("hello from the run")
    finished = [line for line in traces.lines("run succeeded") if "speak" in line["job"]]
    for lines in (spoken, finished):
        assert [line["job"] for line in lines] == 3 * [
            "tests.core.sample_jobs.speak",
            "tests.core.sample_jobs.speak_async",
        ]
    for line in (*spoken, *finished):
        assert line["entry"]
        assert line["run_id"] > 0
        assert line["fire_time"].endswith("+00:00")
    assert {line["attempt"] for line in finished} == {1}
    assert all(line["duration_ms"] >= 0 and line["lateness_ms"] > -300 for line in finished)


def test_a_secret_is_in_no_log_line_no_row_and_no_process_argument(traces: Traces) -> None:
    assert "hello from the run" in traces.log
    assert "succeeded" in traces.rows
    given = [v.get_secret_value() for v in vars(traces.settings).values() if type(v) is SecretStr]
    secrets = {CANARY, *filter(None, (urlsplit(value).password for value in given))}
    for text in (traces.log, traces.rows, repr(traces.settings), repr(traces.arguments)):
        assert not [secret for secret in secrets if secret in text]


def test_no_process_outlives_the_service(traces: Traces) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(traces.worker, 0)
