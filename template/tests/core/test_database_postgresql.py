"""PostgreSQL: what only it can show."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.core import wiring
from app.core.app import create_app
from app.core.database import Database
from app.core.scheduling.answers import Fire, Won
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.statements import completion
from app.settings import Settings
from tests.core.fixtures import servers
from tests.core.servers.postgresql import END_OTHERS
from tests.core.waiting import runs

pytestmark = pytest.mark.anyio
DIALECT = wiring.database.DIALECT


async def test_a_process_that_stands_still_before_its_commit_locks_others_out_for_a_lease_at_most(
    database: Database,
) -> None:
    """Its transaction is ended, and has completed nothing."""
    ledger = Ledger(database, "a", lease=30, window=3600)
    (won,) = await ledger.claim([Fire("job", int(time.time() * 1e6), "job")])
    assert isinstance(won, Won)
    last = completion(DIALECT, won.fence, lease=0.5)

    async def stand_still() -> None:
        async with database.unit_of_work() as session:
            await (await session.connection()).execute(last)
            async with asyncio.timeout(30):
                assert await ledger.finish(won.fence, "failed", attempt=1) == "failed"

    with pytest.raises(DBAPIError):
        await stand_still()
    assert [row.outcome for row in await runs(database)] == ["failed"]


def test_a_host_that_is_gone_is_given_up_soon_unless_the_url_says_otherwise(
    settings: Settings, make_settings: Callable[..., Settings]
) -> None:
    """Asked of the driver: a test cannot drop packets."""
    given = make_url(settings.database_url.get_secret_value())

    def told(**query: str) -> dict[str, str]:
        url = given.update_query_dict(query).render_as_string(hide_password=False)
        engine = Database(make_settings(database_url=url), DIALECT).engine
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            parameters: dict[str, str] = driver.info.get_parameters()
        engine.dispose()
        return parameters

    assert told()["tcp_user_timeout"] == "30000"
    assert told()["keepalives_idle"] == "15"
    yours = told(tcp_user_timeout="5000", connect_timeout="3")
    assert yours["tcp_user_timeout"] == "5000"
    assert yours["connect_timeout"] == "3"
    assert yours["keepalives_count"] == "3"


def test_the_only_scheduler_lets_go_of_a_session_that_was_ended(database: Database) -> None:
    with DIALECT.only_scheduler(database.engine) as answers:
        assert answers()
        with database.engine.connect() as connection:
            connection.execute(text(END_OTHERS))
        assert not answers()
    with DIALECT.only_scheduler(database.engine) as answers:
        assert answers()


def test_in_production_a_start_leaves_the_schema_to_make_migrate(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several replicas, some still run the version before."""
    monkeypatch.setattr("app.core.health._TIMEOUT", 30)
    new = {"database_url": servers.empty(tmp_path), "scheduler_enabled": False}
    with TestClient(create_app(make_settings(environment="production", **new))) as client:
        checks = client.get("/health/ready").json()["checks"]
        assert "run `make migrate`" in checks["start"]
        assert "run `make migrate`" in checks["database"]
