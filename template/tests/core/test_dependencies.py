"""A route's transaction: committed before it answers, or not at all."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from app.core.database import Database
from app.core.dependencies import Reading, UnitOfWork

ADD_ONE = text("UPDATE job_counters SET value = value + 1")
COUNTER = text("SELECT value FROM job_counters")


@pytest.fixture
def api(database: Database) -> TestClient:
    app = FastAPI()
    app.state.database = database

    @app.post("/twice")
    async def twice(session: UnitOfWork, crash: bool = False) -> int:
        await session.execute(ADD_ONE)
        if crash:
            raise ZeroDivisionError
        await session.execute(ADD_ONE)
        return int((await session.execute(COUNTER)).scalar_one())

    @app.post("/unkept")
    async def unkept(session: UnitOfWork) -> None:
        @event.listens_for(session.sync_session, "before_commit")
        def refuse(session: object) -> None:
            raise ConnectionResetError

        await session.execute(ADD_ONE)

    @app.get("/counter")
    async def counter(session: Reading) -> int:
        return int((await session.execute(COUNTER)).scalar_one())

    return TestClient(app, raise_server_exceptions=False)


def test_a_crash_between_two_writes_leaves_neither(api: TestClient) -> None:
    with api:
        before = api.get("/counter").json()
        assert api.post("/twice", params={"crash": True}).status_code == 500
        assert api.get("/counter").json() == before
        assert api.post("/twice").json() == before + 2
        assert api.get("/counter").json() == before + 2


def test_a_route_answers_after_its_commit(api: TestClient) -> None:
    """So what could not be committed is never answered as done."""
    with api:
        before = api.get("/counter").json()
        assert api.post("/unkept").status_code == 500
        assert api.get("/counter").json() == before
