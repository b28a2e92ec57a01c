"""No engine: everything runs in the scheduling processes and their children."""

from sqlalchemy import Connection

from app.core.database import Database
from app.core.settings import ServiceSettings


class EngineSettings(ServiceSettings):
    """There is nothing to set."""


class NoEngine:
    """Carries nothing, and so lacks nothing."""

    async def check(self) -> None:
        """It has no broker that could be away."""


def engine(settings: EngineSettings, database: Database) -> NoEngine:
    return NoEngine()


def pending(connection: Connection) -> list[str]:
    """It has no tables."""
    return []


def migrate(connection: Connection) -> None:
    """Nor anything to migrate."""
