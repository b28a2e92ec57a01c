"""Which database, job store, executor and lock this service was rendered with."""

from app.core.databases import sqlite as database
from app.core.executors import no_engine as engine
from app.core.locks import database as lock
from app.core.stores import database as store

SERVICE_NAME = "scheduler-service"
DATABASE = "sqlite"
JOB_STORE = "database"
DEFAULT_EXECUTOR = "processpool"
RUNNER = "runner"
LOCK_BACKEND = "database"


class CoreSettings(
    database.DatabaseSettings, store.StoreSettings, lock.LockSettings, engine.EngineSettings
):
    """Every setting of the machinery; `app.settings.Settings` adds yours."""

    service_name = SERVICE_NAME


__all__ = ["CoreSettings", "database", "engine", "lock", "store"]
