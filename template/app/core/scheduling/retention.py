"""What is old enough is deleted from the ledger, a page at a time."""

from sqlalchemy import and_, delete, select

from app.core.database import Database
from app.core.schema import job_runs

_PAGE, _PAGES = 1_000, 10
_run = job_runs.c


class Retention:
    """Settled runs are kept for `seconds`; what is still open or running is kept in any case."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        now = database.dialect.now()
        # The oldest rows by their id: looked at without an index of its own, and never all.
        oldest = select(job_runs).order_by(_run.id).limit(_PAGE).subquery()
        settled = and_(oldest.c.outcome.is_not(None), oldest.c.active_key.is_(None))
        self._old = select(oldest.c.id).where(
            settled, oldest.c.finished_at < now - int(seconds * 1e6)
        )

    async def sweep(self) -> int:
        """Delete some of what is too old; returns how many runs."""
        deleted = 0
        for _ in range(_PAGES):
            async with self._database.reading() as connection:
                ids = (await connection.scalars(self._old)).all()
            if ids:  # nobody writes, and on SQLite keeps others from it, for nothing
                async with self._database.writing(alone=True) as connection:
                    await connection.execute(delete(job_runs).where(_run.id.in_(ids)))
            deleted += len(ids)
            if len(ids) < _PAGE:
                break
        return deleted
