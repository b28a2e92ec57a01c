"""Jobs that are added while the service runs are kept in memory: a restart forgets them."""

from app.core.database import Database
from app.core.settings import ServiceSettings
from app.core.stores import DefinitionStore


class StoreSettings(ServiceSettings):
    """Memory needs none."""


def definitions(settings: StoreSettings, database: Database) -> DefinitionStore | None:
    return None
