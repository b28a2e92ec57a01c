"""Your tests. The first two show how: one for a route, one for a job."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.core.scheduling import Run


def test_the_service_is_ready(client: TestClient) -> None:
    assert client.get("/health/ready").json()["status"] == "ready"


@pytest.mark.anyio
async def test_a_job_works_in_the_transaction_of_its_run(run: Run) -> None:
    async with run.unit_of_work() as session:
        assert await session.scalar(text("SELECT 1")) == 1
