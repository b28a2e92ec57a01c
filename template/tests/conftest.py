"""What your tests are given, on top of tests/core/fixtures.py.

Ordinary tests run no scheduler: `client` serves the routes, and a job is a function that is
called with `run`.
"""

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from app.core.app import create_app
from app.core.database import Database
from app.core.scheduling import Run
from app.settings import Settings

pytest_plugins = ["tests.core.fixtures"]


@pytest.fixture
def client(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    """The application over HTTP, with a database of its own."""
    with TestClient(create_app(make_settings(scheduler_enabled=False))) as client:
        yield client


@pytest.fixture
def run(settings: Settings, database: Database) -> Run:
    """What a job function receives, made by hand: `await my_job(run)`."""
    return Run(settings=settings, database=database)
