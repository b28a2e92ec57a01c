"""Two histories: the core's and yours, each its own."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect

from app.core import migrate, wiring
from app.core.app import create_app
from app.core.database import Database
from app.settings import Settings
from tests.core.fixtures import servers
from tests.core.test_health import ready

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty(settings: Settings, tmp_path: Path) -> Database:
    url = servers.empty(tmp_path)
    made = settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    return Database(made, wiring.database.DIALECT)


@pytest.fixture(scope="module", autouse=True)
def migrating(new_database: Callable[[], str]) -> subprocess.Popen[bytes]:
    """A process that finds nothing to migrate; it starts while the other tests run."""
    code = (
        "import sys; from app.core import migrate, wiring; from app.settings import Settings;"
        "from app.core.database import Database;"
        "migrate.migrate(Database(Settings(), wiring.database.DIALECT));"
        "sys.exit('alembic' in sys.modules)"
    )
    environment = {"DATABASE_URL": new_database(), "PATH": ""}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)


def test_several_replicas_migrate_at_once_and_the_models_agree(empty: Database) -> None:
    assert empty.engine
    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(lambda _: migrate.migrate(empty), range(4)))
    with empty.engine.connect() as connection:
        assert migrate.pending(connection) == []
        assert "job_runs" in inspect(connection).get_table_names()
    migrate.check(empty)
    empty.engine.dispose()


def test_in_local_the_start_makes_the_schema(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Unless MIGRATE_ON_START says otherwise."""
    new = {"database_url": servers.empty(tmp_path), "scheduler_enabled": False}
    local = make_settings(environment="local", **new)
    with TestClient(create_app(local.model_copy(update={"migrate_on_start": False}))) as client:
        assert "make migrate" in client.get("/health/ready").json()["checks"]["start"]
    with TestClient(create_app(local)) as client:
        assert ready(client)["database"] == "ok"


def test_a_model_without_a_migration_is_found(empty: Database) -> None:
    with pytest.raises(SystemExit, match="run `make migrate` first"):
        migrate.check(empty)
    migrate.migrate(empty)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE job_locks")
    with pytest.raises(SystemExit, match='make migration m="what it changes"'):
        migrate.check(empty)
    empty.engine.dispose()


def test_what_is_pending_is_named(empty: Database) -> None:
    with empty.engine.connect() as connection:
        assert "core_alembic_version" in migrate.pending(connection)
    empty.engine.dispose()


def test_alembic_is_not_imported_when_nothing_is_pending(
    migrating: subprocess.Popen[bytes],
) -> None:
    assert migrating.wait(60) == 0
