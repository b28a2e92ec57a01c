"""Jobs that are added while the service runs are kept in memory: a restart forgets them."""

from app.core.database import Database
from app.core.stores import DefinitionStore


def definitions(database: Database) -> DefinitionStore | None:
    return None
