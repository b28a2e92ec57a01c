"""The ledger: what ran, and what became of it. One row for each fire; the last word on that."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Update,
    and_,
    bindparam,
    case,
    null,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from app.core.scheduling.answers import Outcome, Won
from app.core.scheduling.batch import as_text, storable
from app.core.scheduling.claims import Claims
from app.core.scheduling.statements import END, ending
from app.core.scheduling.together import Together
from app.core.schema import job_runs

_run = job_runs.c
_UNKNOWN_AFTER = 15_000_000


class Ledger(Claims):
    """The claims of one replica, and what becomes of its runs."""

    @cached_property
    def _several(self) -> asyncio.Lock:
        """Held while several rows are written: in another order they would be a deadlock."""
        return asyncio.Lock()

    async def check(self) -> None:
        """Raise if no claim can be made: the lock backend does not answer."""
        if self.suspended:
            raise ConnectionError("another process may be making claims")

    async def close(self) -> None:
        """Close what is open beside the database."""

    async def raise_fences(self) -> None:
        """Before the first claim: what another lock backend gave must not be above ours."""
        async with self.database.writing() as connection:
            await connection.run_sync(self.database.dialect.raise_fences)

    async def beat(self, fences: Sequence[int]) -> set[int]:
        """Renew the leases; returns those that are still ours. Conditional on the fence only."""
        statement = (
            update(job_runs)
            .where(_run.fence.in_(fences), _run.lease_until.is_not(None))
            .values(lease_until=self._now + self._lease)
            .returning(_run.fence)
        )
        async with self._several, self.database.writing(alone=True) as connection:
            return set((await connection.scalars(statement)).all())

    async def finish(
        self,
        fence: int,
        outcome: Outcome,
        *,
        attempt: int,
        attempts: Sequence[dict[str, Any]] = (),
        error: str | None = None,
        still_running: bool = False,
    ) -> Outcome | None:
        """Record the outcome, unless the body's own transaction has; returns the one that stands.

        None: the run was taken over, and is not ours to finish.
        """
        end = {
            "of": fence,
            "ended": outcome,
            "error": storable(error),
            "attempt": attempt,
            "attempts": as_text(attempts),
            "release": not still_running,
        }
        return await self._end(end)

    @cached_property
    def _end(self) -> Together[Mapping[str, Any], Outcome | None]:
        return Together(self._end_several)

    async def _end_several(self, ends: Sequence[Mapping[str, Any]]) -> Sequence[Outcome | None]:
        async with self._several, self.database.writing(alone=True) as connection:
            if len(ends) == 1:
                row = (await connection.execute(self._ending, ends[0])).one_or_none()
                return [row.outcome if row else None]
            given = {"batch": json.dumps(list(map(dict, ends)))}
            rows = {
                row.fence: row.outcome for row in await connection.execute(self._endings, given)
            }
        return [rows.get(end["of"]) for end in ends]

    @cached_property
    def _ending(self) -> ReturningUpdate[Any]:
        given = {name: bindparam(name, type_=type_) for name, type_ in END.items()}
        return ending(self._now, SimpleNamespace(**given))

    @cached_property
    def _endings(self) -> ReturningUpdate[Any]:
        return ending(self._now, self.database.dialect.rows("batch", END).c)

    async def release(self, fence: int) -> bool:
        """A function that outlived its recorded outcome has ended."""
        mine = update(job_runs).where(_run.fence == fence)
        return await self._changed(mine.values(active_key=None, lease_until=None))

    async def retry(self, fence: int, attempt: int, attempts: Sequence[dict[str, Any]]) -> bool:
        """Record a failed attempt, before the next one under the same claim."""
        mine = and_(_run.fence == fence, _run.outcome.is_(None))
        values = {"attempt": attempt, "attempts": as_text(attempts)}
        return await self._changed(update(job_runs).where(mine).values(**values))

    async def hand_over(self, fence: int, attempts: Sequence[dict[str, Any]]) -> bool:
        """Give an unfinished run back at once, for another replica to run again."""
        mine = and_(_run.fence == fence, _run.outcome.is_(None))
        values = {
            "active_key": None,
            "lease_until": 0,
            "attempts": as_text(attempts),
            "fence": await self.spare_fence(),
        }
        return await self._changed(update(job_runs).where(mine).values(**values))

    async def expired(self, limit: int = 1000) -> Sequence[Row[Any]]:
        """Runs without an outcome whose holder is silent for longer than its lease."""
        # Without workers, what still waits for one is to be run here.
        ours = _run.sent.is_(None) if self.outbox else true()
        statement = (
            select(job_runs, self._now.label("now"))
            .where(_run.outcome.is_(None), ours, _run.lease_until < self._now)
            .order_by(_run.id + 0)  # by id itself SQLite walks all rows, not the few open ones
            .limit(limit)
        )
        dead: list[Row[Any]] = []
        last = 0
        while True:  # a page may be all alive, where leases are not the ledger's
            async with self.database.reading() as connection:
                rows = (await connection.execute(statement.where(_run.id > last))).all()
            alive = await self._alive(rows) if rows else set()
            dead += [row for row in rows if row.fence not in alive]
            if len(rows) < limit or len(dead) >= limit:
                return dead
            last = rows[-1].id

    async def take_over(
        self, row: Row[Any], active_key: str | None, attempts: Sequence[dict[str, Any]]
    ) -> Won | None:
        """Run an expired run again, under a new fence. None: somebody else does, or it overlaps."""
        values = {
            "attempt": _run.attempt + case((_run.sent.is_(None), 1), else_=0),
            "attempts": as_text(attempts),
            "active_key": active_key,
            "sent": null(),
        }
        return await self.acquire(row, _run.lease_until < self._now, values)

    async def acquire(
        self, row: Row[Any], condition: ColumnElement[bool], values: Mapping[str, Any]
    ) -> Won | None:
        """Make an open run ours that was last seen as `row`, with a new fence and a lease."""
        fence = await self._seize(row)
        if fence is None:
            return None
        statement = (
            update(job_runs)
            .where(_run.fence == row.fence, _run.outcome.is_(None), condition)
            .values(
                fence=fence,
                replica=self.replica,
                lease_until=self._now + self._lease,
                claimed_at=self._now,
                **values,
            )
            .returning(_run.fence, _run.id, _run.attempt)
        )
        try:
            async with self.database.writing() as connection:
                if self._was_busy():
                    return None
                taken = (await connection.execute(statement)).one_or_none()
        except IntegrityError:  # the job runs again already, for a later fire
            return None
        return Won(*taken) if taken else None

    async def _seize(self, row: Row[Any]) -> ColumnElement[int] | int | None:
        """A new fence for a run that was last seen as `row`. None: it is not free."""
        return self.database.dialect.next_fence()

    async def give_up(self, fence: int, error: str) -> bool:
        """Record an expired run as `lost`."""
        dead = and_(_run.fence == fence, _run.outcome.is_(None), _run.lease_until < self._now)
        values = {
            "outcome": "lost",
            "error": error,
            "active_key": None,
            "lease_until": None,
            "finished_at": self._now,
        }
        async with self.database.writing() as connection:
            if self._was_busy():
                return False
            given_up = await connection.execute(update(job_runs).where(dead).values(**values))
            return given_up.rowcount == 1

    async def disown(self, running: Sequence[int]) -> None:
        """Expire the claims of this replica that it does not know of.

        A claim that was cut off at its commit has a row, but nobody who runs it.
        """
        lost = and_(
            _run.outcome.is_(None),
            _run.replica == self.replica,
            _run.sent.is_(None),
            _run.lease_until > self._now,
            _run.claimed_at < self._now - _UNKNOWN_AFTER,
            _run.fence.not_in(running),
        )
        async with self.database.reading() as connection:
            found = (await connection.scalars(select(_run.fence).where(lost))).all()
        for fence in found:
            mine = update(job_runs).where(_run.fence == fence, _run.outcome.is_(None))
            await self._changed(mine.values(lease_until=0))

    async def disown_others(self) -> None:
        """Expire every lease but our own: only for the one process that schedules."""
        held = and_(_run.lease_until > 0, _run.replica != self.replica)
        await self._changed(update(job_runs).where(held).values(lease_until=0))

    async def _changed(self, statement: Update) -> bool:
        async with self.database.writing(alone=True) as connection:
            return (await connection.execute(statement)).rowcount == 1
