"""Fires that wait for a worker: rows of the ledger that were sent, and that nobody runs yet."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, exists, null, select, update
from sqlalchemy.exc import IntegrityError

from app.core.scheduling.answers import Message, Outcome, Won
from app.core.scheduling.batch import as_text
from app.core.scheduling.ledger import Ledger
from app.core.scheduling.statements import is_paused
from app.core.schema import job_runs, job_schedules

_run = job_runs.c
_LONGEST = 32
"""Leases between one sending and the next, at most."""


class Queue:
    """What becomes of a fire between its claim, in one process, and its start in another."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._database = ledger.database
        self._now = ledger.database.dialect.now()
        self._lease = int((ledger.lease or 0) * 1e6)

    async def start(self, job: str, time: int) -> tuple[Won, list[dict[str, Any]]] | None:
        """On a worker: run it under a lease. None: it is run already, done or paused; drop it."""
        waits = and_(_run.outcome.is_(None), _run.sent.is_not(None))
        paused = exists().where(job_schedules.c.job == job, is_paused(self._now))
        asked = select(job_runs).where(_run.job == job, _run.fire_time == time, waits, ~paused)
        async with self._database.reading() as connection:
            row = (await connection.execute(asked)).one_or_none()
        if row is None:
            return None
        won = await self._ledger.acquire(row, _run.sent.is_not(None), {"sent": null()})
        return (won, json.loads(row.attempts or "[]")) if won else None

    async def overdue(self, after: int = 0) -> Sequence[Row[Any]]:
        """What no worker has taken for too long since it was sent; a page, from this id on.

        Not of paused jobs: no worker would take it.
        """
        paused = exists().where(job_schedules.c.job == _run.job, is_paused(self._now))
        statement = (
            select(job_runs, self._now.label("now"))
            .where(_run.outcome.is_(None), _run.sent.is_not(None), _run.lease_until < self._now)
            .where(_run.id > after, ~paused)
            .order_by(_run.id + 0)  # by the index of open runs, as in Ledger.expired
            .limit(500)
        )
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).all()

    async def unsettled(self, jobs: Sequence[str]) -> set[str]:
        """Those of the jobs that have a run without an outcome."""
        if not jobs:
            return set()
        statement = select(_run.job).where(_run.job.in_(jobs), _run.outcome.is_(None))
        async with self._database.reading() as connection:
            return set((await connection.scalars(statement)).all())

    async def send_again(self, row: Row[Any], message: Message) -> Message | None:
        """Send what is overdue once more; each time it waits twice as long. None: another did."""
        pause = min(2**row.sent, _LONGEST) * self._lease
        values = {"sent": row.sent + 1, "lease_until": self._now + pause}
        return await self._send(row, _run.sent == row.sent, values, message)

    async def requeue(
        self,
        row: Row[Any],
        active_key: str | None,
        attempts: Sequence[dict[str, Any]],
        message: Message,
    ) -> Message | None:
        """Send what a dead worker left behind. None: another did, or its job runs again already."""
        values = {
            "sent": 1,
            "attempt": _run.attempt + 1,
            "attempts": as_text(attempts),
            "active_key": active_key,
            "lease_until": self._now + self._lease,
            "fence": await self._ledger.spare_fence(),
        }
        try:
            return await self._send(row, _run.sent.is_(None), values, message)
        except IntegrityError:
            return None

    async def give_up(self, job: str, time: int, outcome: Outcome) -> None:
        """What still waits is not to run any more."""
        values = {"outcome": outcome, "active_key": None, "lease_until": None, "sent": null()}
        waits = and_(_run.outcome.is_(None), _run.sent.is_not(None))
        same = and_(_run.job == job, _run.fire_time == time, waits)
        ended = update(job_runs).where(same).values(finished_at=self._now, **values)
        async with self._database.writing(alone=True) as connection:
            await connection.execute(ended)

    async def _send(
        self, row: Row[Any], condition: Any, values: dict[str, Any], message: Message
    ) -> Message | None:
        same = and_(_run.fence == row.fence, _run.outcome.is_(None), _run.lease_until < self._now)
        statement = update(job_runs).where(same, condition).values(**values)
        async with self._database.writing() as connection:
            fence = await connection.scalar(statement.returning(_run.fence))
            if fence is None:
                return None
            whole = {**message, "fence": fence}
            assert self._ledger.outbox
            await self._ledger.outbox(connection, [whole])
            return whole
