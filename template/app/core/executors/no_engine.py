"""No engine: everything runs in the scheduling processes and their children."""

from sqlalchemy import Connection

from app.core.database import Database
from app.core.settings import ServiceSettings


class EngineSettings(ServiceSettings):
    """There is nothing to set."""


def engine(settings: EngineSettings, database: Database) -> object:
    """None."""
    return None


def pending(connection: Connection) -> list[str]:
    """It has no tables."""
    return []


def migrate(connection: Connection) -> None:
    """Nor anything to migrate."""
