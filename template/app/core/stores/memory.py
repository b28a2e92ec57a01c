"""Jobs that are added while the service runs are kept in memory: a restart forgets them."""

import logging

from app.core.database import Database
from app.core.settings import ServiceSettings
from app.core.stores import DefinitionStore

_log = logging.getLogger(__name__)


class StoreSettings(ServiceSettings):
    """Memory needs none."""


def definitions(settings: StoreSettings, database: Database) -> DefinitionStore | None:
    _log.info("job_store=memory: jobs added at run time are this process's own, and end with it")
    return None
