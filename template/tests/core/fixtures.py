"""What tests are given: a database of their own, settings, the application, a run."""

import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import inspect, update

from app.core import database as current_database
from app.core import wiring
from app.core.database import Database
from app.core.scheduling import Job, declaration, named_lock, replica
from app.core.schema import job_runs
from app.core.service import Service
from app.settings import Settings

servers = importlib.import_module(f"tests.core.servers.{wiring.DATABASE}")
FURTHER = [
    name for name in Settings.model_fields if re.fullmatch("(job_store|lock|broker)_url", name)
]
_further = importlib.import_module("tests.core.servers.valkey") if FURTHER else None
# Tests read nothing of the developer's: no .env, and no variables but the server's, read above.
Settings.model_config["env_file"] = None
for _name in Settings.model_fields:
    os.environ.pop(_name.upper(), None)
Databases = tuple[Callable[[], str], Callable[[str], None]]
Outage = Callable[[], AbstractContextManager[None]]
Outages = list[Outage]
BRIEF_LEASE = pytest.mark.parametrize("lease_seconds", [0.5])
"""Shorter than a service may have it, for tests that wait for leases to end."""
Declare = Callable[..., Job]
Scheduling = Callable[..., AbstractAsyncContextManager[Service]]


def further_urls() -> dict[str, SecretStr]:
    """Of the servers beside the database that this service needs, each with nothing on it."""
    return {name: SecretStr(_further.new(name.upper())) for name in FURTHER if _further}


def canaries(url: str, secret: str) -> dict[str, SecretStr]:
    """Every secret setting of this service, with that secret in it: urls, keys, and yours."""
    urls = {"database_url": servers.protected(url, secret)}
    for name, further in further_urls().items():
        if _further:
            urls[name] = _further.protected(further.get_secret_value(), secret)
    secrets = [name for name, f in Settings.model_fields.items() if "Secret" in repr(f.annotation)]
    return {name: SecretStr(urls.get(name, secret)) for name in secrets}


def stored(settings: Settings, database: Database) -> str:
    """Every row and, on a server beside the database, every key of this service."""
    found: dict[str, Any] = {}
    with database.engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            found[table] = connection.exec_driver_sql(f'SELECT * FROM "{table}"').all()
    for name in FURTHER:
        if _further:
            found[name] = _further.everything(getattr(settings, name).get_secret_value())
    return repr(found)


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """For a process of the service on the same servers; `LEASE` may be less than LEASE_SECONDS."""
    urls = {
        name.upper(): getattr(settings, name).get_secret_value()
        for name in ("database_url", *FURTHER)
    }
    path = os.pathsep.join(filter(None, sys.path))
    lease = f"{settings.lease_seconds}"
    return {**os.environ, **urls, "PYTHONPATH": path, "LEASE": lease, **more}


@contextmanager
def servers_apart(folder: Path) -> Iterator[tuple[dict[str, str], Outages]]:
    """The settings for servers of the test's own, and whatever takes one of them away."""
    with ExitStack() as stack:
        started = {"database_url": stack.enter_context(servers.apart(folder))}
        for name in FURTHER:
            if _further:
                started[name] = stack.enter_context(_further.apart())
        urls = {name: url for name, (url, _) in started.items()}
        yield urls, [outage for _, outages in started.values() for outage in outages]


def time_goes_by(settings: Settings, database: Database, seconds: float) -> None:
    """All leases are so much nearer to their end, or past it."""
    until = job_runs.c.lease_until
    with database.engine.begin() as connection:
        nearer = update(job_runs).where(until > 0).values(lease_until=until - int(seconds * 1e6))
        connection.execute(nearer)
    for name in FURTHER:
        if _further:
            _further.time_goes_by(getattr(settings, name).get_secret_value(), seconds)


@contextmanager
def other_replica(settings: Settings, job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """A process that often runs this job of tests/core/replica.py, and is gone at the end."""
    command = [sys.executable, "-m", "tests.core.replica"]
    process = subprocess.Popen(command, env=environment(settings, JOB=job.id))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with servers.databases(tmp_path_factory.mktemp("databases")) as (new, done):
        yield new, done


@pytest.fixture(scope="session")
def new_database(databases: Databases) -> Callable[[], str]:
    """A function that makes a migrated database and returns its URL."""
    return databases[0]


@pytest.fixture
def lease_seconds() -> float:
    """As in a service that runs."""
    return 30


@pytest.fixture
def make_settings(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lease_seconds: float
) -> Iterator[Callable[..., Settings]]:
    """Settings as in a test, some of them changed."""
    new, done = databases
    used: list[str] = []
    monkeypatch.chdir(tmp_path)
    defaults: dict[str, Any] = {"environment": "test", "shutdown_grace_seconds": 2}

    def make(**changes: Any) -> Settings:
        if (url := changes.pop("database_url", None)) is None:
            url = new()
            used.append(url)
        made = Settings(**{"database_url": SecretStr(url), **further_urls(), **defaults, **changes})
        return made.model_copy(update={"lease_seconds": lease_seconds})

    yield make
    for url in used:
        done(url)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
async def database(settings: Settings, anyio_backend: str) -> AsyncIterator[Database]:
    """The test's database, open as it is in a started service."""
    opened = Database(settings, wiring.database.DIALECT)
    current_database.use(opened)
    named_lock.use(wiring.lock.named_locks(settings, opened))
    yield opened
    await opened.close()
    current_database.use(None)
    named_lock.use(None)


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """`@job` for one test: the declaration is forgotten afterwards."""
    monkeypatch.setattr(declaration, "_declared", dict(declaration._declared))

    def declare(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Job:
        return declaration.job(*args, **{"id": function.__name__, **kwargs})(function)

    return declare


@pytest.fixture
def never_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not somebody who keeps all others from writing."""
    monkeypatch.setattr("app.core.database._BUSY", inf)


@pytest.fixture
def scheduling(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    """`async with scheduling(job, ...)`: a replica that schedules these jobs and no others.

    Its clock is `ahead` by so many seconds.
    """
    monkeypatch.setattr(replica, "POLL", 0.1)
    dialect = wiring.database.DIALECT
    ended = dialect.ended_when_idle  # a busy machine stands still for longer than a brief lease
    monkeypatch.setattr(dialect, "ended_when_idle", lambda seconds: ended(max(seconds, 5)))

    @asynccontextmanager
    async def scheduling(
        *jobs: Job, settings: Settings = settings, ahead: float = 0
    ) -> AsyncIterator[Service]:
        service = Service(settings, {job.id: job for job in jobs})
        service.scheduler.clock = lambda: datetime.now(UTC) + timedelta(seconds=ahead)
        try:
            await service.start()
            yield service
        finally:
            await service.stop()

    return scheduling


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Leave the loggers as they were: creating an application sets them up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
