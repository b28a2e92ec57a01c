"""Locks in the database: the claim of a fire is the ledger's own insert."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import update

from app.core.database import Database
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.named_lock import NamedLocks
from app.core.schema import job_locks
from app.core.settings import ServiceSettings


class LockSettings(ServiceSettings):
    """LEASE_SECONDS is all."""


def ledger(settings: LockSettings, database: Database, replica: str) -> Ledger:
    """Claims under a lease: any number of replicas."""
    lease = settings.lease_seconds
    return Ledger(database, replica, lease, settings.catch_up_seconds, patience=lease)


@asynccontextmanager
async def claiming(ledger: Ledger) -> AsyncIterator[None]:
    """What to hold while claims are made: nothing."""
    await ledger.raise_fences()
    yield


def named_locks(settings: LockSettings, database: Database) -> NamedLocks:
    return _DatabaseLocks(database)


class _DatabaseLocks:
    def __init__(self, database: Database) -> None:
        self.lease = database.settings.lease_seconds
        self._engine = database.engine
        self._dialect = database.dialect

    def acquire(self, name: str, lease: float) -> int | None:
        now = self._dialect.now()
        values = {"fence": 1, "lease_until": now + int(lease * 1e6)}
        insert = self._dialect.insert(job_locks).values(name=name, **values)
        grown = values | {"fence": job_locks.c.fence + 1}
        free = job_locks.c.lease_until < now
        taken = insert.on_conflict_do_update(index_elements=["name"], set_=grown, where=free)
        with self._engine.begin() as connection:
            fence: int | None = connection.scalar(taken.returning(job_locks.c.fence))
        return fence

    def renew(self, name: str, fence: int, lease: float) -> bool:
        return self._hold(name, fence, lease)

    def release(self, name: str, fence: int) -> None:
        self._hold(name, fence, -1)

    def close(self) -> None:
        """The database is closed by itself."""

    def _hold(self, name: str, fence: int, seconds: float) -> bool:
        until = self._dialect.now() + int(seconds * 1e6)
        mine = (job_locks.c.name == name) & (job_locks.c.fence == fence)
        with self._engine.begin() as connection:
            statement = update(job_locks).where(mine).values(lease_until=until)
            return connection.execute(statement).rowcount == 1
