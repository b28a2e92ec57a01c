"""The ledger: what ran, and who may run what. One row for each fire; the last word on both."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Row,
    String,
    Update,
    and_,
    case,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from app.core.database import Database
from app.core.databases import Dialect
from app.core.schema import job_runs, job_schedules

Outcome = Literal[
    "succeeded", "failed", "timed_out", "cancelled", "interrupted", "skipped", "missed", "lost"
]
EARLY = 250_000
"""Microseconds before its time, by the store's clock, from which on a fire may be claimed."""

_run = job_runs.c
_columns: Mapping[str, TypeEngine[Any]] = {
    "position": BigInteger(),
    "job": String(),
    "fire_time": BigInteger(),
    "active_key": String(),
    "outcome": String(),
}


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire time of one job. `active_key` is None where runs may overlap."""

    job: str
    time: int
    active_key: str | None


@dataclass(frozen=True, slots=True)
class Won:
    """Run it: nobody else will, as long as the lease is kept."""

    fence: int
    run_id: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """There is a row for it already; `settled` when that has an outcome."""

    settled: bool


@dataclass(frozen=True, slots=True)
class Early:
    """By the store's clock it is not due for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not run: paused, or recorded as `skipped` (overlap) or `missed` (too old)."""

    why: Literal["paused", "skipped", "missed"]


Claim = Won | Taken | Early | Refused


def completion(dialect: Dialect, fence: int) -> Update:
    """Complete the run as the last statement of its own transaction; no row, no longer ours."""
    mine = and_(_run.fence == fence, _run.outcome.is_(None))
    return update(job_runs).where(mine).values(outcome="succeeded", finished_at=dialect.now())


def touch(dialect: Dialect, fence: int) -> Update:
    """Lock the run's row until the transaction ends, so that nobody takes it over meanwhile."""
    mine = and_(_run.fence == fence, _run.outcome.is_(None))
    return update(job_runs).where(mine).values(attempt=_run.attempt)


class Ledger:
    """Claims and records of one replica.

    `lease` in seconds is how long a claim outlives the replica's silence; None is for ever.
    Fires older than `window`, in seconds, are not claimed any more.
    """

    def __init__(
        self, database: Database, replica: str, lease: float | None, window: float
    ) -> None:
        self.database = database
        self.replica = replica
        self.lease = lease
        self.window = int(window * 1e6)
        self._lease = int(lease * 1e6) if lease else 100 * 365 * 86_400 * 1_000_000
        self._now = database.dialect.now()
        self._insert = database.dialect.insert(job_runs)

    async def claim(self, fires: Sequence[Fire]) -> list[Claim]:
        """Answer each fire in one read and, if any can be won, one short transaction.

        An expired holder is settled first: an old corpse must not turn a daily run into `skipped`.
        """
        answers: dict[int, Claim] = {}
        asked = dict(enumerate(fires))
        while asked:
            rows, now = await self._look(asked)
            inserts: dict[int, tuple[Fire, Outcome | None]] = {}
            corpses: set[int] = set()
            for row in rows:
                fire = asked[row.position]
                if row.id is not None:
                    answers[row.position] = Taken(row.outcome is not None)
                elif fire.time > now + EARLY:
                    answers[row.position] = Early((fire.time - now) / 1e6)
                elif row.paused:
                    answers[row.position] = Refused("paused")
                elif fire.time < now - self.window:
                    inserts[row.position] = fire, "missed"
                elif row.holder is not None and row.holder_lease >= now:
                    inserts[row.position] = fire, "skipped"
                else:
                    inserts[row.position] = fire, None
                    corpses.update({row.holder} - {None})
            answers.update(await self._record(inserts, corpses) if inserts else {})
            # Who lost the race in between looks again: it is taken now, or overlaps.
            asked = {p: fire for p, fire in asked.items() if p not in answers}
        return [answers[position] for position in range(len(fires))]

    async def _look(self, asked: dict[int, Fire]) -> tuple[Sequence[Row[Any]], int]:
        batch = self.database.dialect.rows("batch", _columns)
        holder, schedule = job_runs.alias("holder"), job_schedules.c
        statement = (
            select(
                batch.c.position,
                _run.id,
                _run.outcome,
                holder.c.fence.label("holder"),
                holder.c.lease_until.label("holder_lease"),
                and_(
                    schedule.paused_at.is_not(None),
                    or_(schedule.paused_until.is_(None), schedule.paused_until > self._now),
                ).label("paused"),
                self._now.label("now"),
            )
            .select_from(batch)
            .outerjoin(job_runs, and_(_run.job == batch.c.job, _run.fire_time == batch.c.fire_time))
            .outerjoin(holder, holder.c.active_key == batch.c.active_key)
            .outerjoin(job_schedules, schedule.job == batch.c.job)
        )
        async with self.database.reading() as connection:
            rows = (await connection.execute(statement, {"batch": _json(asked.items())})).all()
        return rows, rows[0].now

    async def _record(
        self, inserts: dict[int, tuple[Fire, Outcome | None]], corpses: Iterable[int]
    ) -> dict[int, Claim]:
        batch = self.database.dialect.rows("batch", _columns)
        running = batch.c.outcome.is_(None)
        values = {
            "job": batch.c.job,
            "fire_time": batch.c.fire_time,
            "fence": self.database.dialect.next_fence(batch.c.position),
            "replica": literal(self.replica),
            "attempt": case((running, 1), else_=0),
            "outcome": batch.c.outcome,
            "active_key": case((running, batch.c.active_key)),
            "lease_until": case((running, self._now + self._lease)),
            "claimed_at": case((running, self._now)),
            "finished_at": case((running, null()), else_=self._now),
        }
        statement = (
            self._insert.from_select(
                list(values), select(*values.values()).where(true()), include_defaults=False
            )
            .on_conflict_do_nothing()
            .returning(_run.job, _run.fire_time, _run.fence, _run.id)
        )
        given = [(p, fire, outcome) for p, (fire, outcome) in inserts.items()]
        async with self.database.writing() as connection:
            for fence in corpses:
                await self._release_corpse(connection, fence)
            done = (await connection.execute(statement, {"batch": _json(given)})).all()
        rows = {(row.job, row.fire_time): row for row in done}
        answers: dict[int, Claim] = {}
        for position, fire, outcome in given:
            if row := rows.get((fire.job, fire.time)):
                won = Won(row.fence, row.id)
                answers[position] = Refused(outcome) if outcome else won  # type: ignore[arg-type]
        return answers

    async def _release_corpse(self, connection: AsyncConnection, fence: int) -> None:
        """Free the key of a dead holder. Its fire is still owed: recovery runs it later."""
        expired = and_(_run.fence == fence, _run.lease_until < self._now)
        freed = (
            update(job_runs)
            .where(expired)
            .values(
                active_key=None,
                lease_until=case((_run.outcome.is_(None), 0)),
                fence=self.database.dialect.next_fence(),
            )
        )
        await connection.execute(freed)

    async def beat(self, fences: Sequence[int]) -> set[int]:
        """Renew the leases; returns those that are still ours. Conditional on the fence only."""
        statement = (
            update(job_runs)
            .where(_run.fence.in_(fences), _run.lease_until.is_not(None))
            .values(lease_until=self._now + self._lease)
            .returning(_run.fence)
        )
        async with self.database.writing() as connection:
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
        release = {} if still_running else {"active_key": None, "lease_until": None}
        statement = (
            update(job_runs)
            .where(_run.fence == fence)
            .values(
                outcome=func.coalesce(_run.outcome, outcome),
                finished_at=func.coalesce(_run.finished_at, self._now),
                error=error,
                attempt=attempt,
                attempts=_attempts(attempts),
                **release,
            )
            .returning(_run.outcome)
        )
        async with self.database.writing() as connection:
            stands: Outcome | None = await connection.scalar(statement)
        return stands

    async def release(self, fence: int) -> bool:
        """A function that outlived its recorded outcome has ended."""
        mine = update(job_runs).where(_run.fence == fence)
        return await self._changed(mine.values(active_key=None, lease_until=None))

    async def retry(self, fence: int, attempt: int, attempts: Sequence[dict[str, Any]]) -> bool:
        """Record a failed attempt, before the next one under the same claim."""
        mine = and_(_run.fence == fence, _run.outcome.is_(None))
        values = {"attempt": attempt, "attempts": _attempts(attempts)}
        return await self._changed(update(job_runs).where(mine).values(**values))

    async def hand_over(self, fence: int, attempts: Sequence[dict[str, Any]]) -> bool:
        """Give an unfinished run back at once, for another replica to run again."""
        mine = and_(_run.fence == fence, _run.outcome.is_(None))
        values = {
            "active_key": None,
            "lease_until": 0,
            "attempts": _attempts(attempts),
            "fence": self.database.dialect.next_fence(),
        }
        return await self._changed(update(job_runs).where(mine).values(**values))

    async def expired(self, limit: int = 100) -> Sequence[Row[Any]]:
        """Runs without an outcome whose holder is silent for longer than its lease."""
        columns = (_run.id, _run.job, _run.fire_time, _run.fence, _run.attempt, _run.attempts)
        statement = (
            select(*columns, (self._now - _run.fire_time).label("age"))
            .where(_run.outcome.is_(None), _run.lease_until < self._now)
            .order_by(_run.fire_time)
            .limit(limit)
        )
        async with self.database.reading() as connection:
            return (await connection.execute(statement)).all()

    async def take_over(
        self, fence: int, active_key: str | None, attempts: Sequence[dict[str, Any]]
    ) -> Won | None:
        """Run an expired run again, under a new fence. None: somebody else does, or it overlaps."""
        statement = (
            update(job_runs)
            .where(_run.fence == fence, _run.outcome.is_(None), _run.lease_until < self._now)
            .values(
                fence=self.database.dialect.next_fence(),
                replica=self.replica,
                attempt=_run.attempt + 1,
                attempts=_attempts(attempts),
                active_key=active_key,
                lease_until=self._now + self._lease,
                claimed_at=self._now,
            )
            .returning(_run.fence, _run.id, _run.attempt)
        )
        try:
            async with self.database.writing() as connection:
                row = (await connection.execute(statement)).one_or_none()
        except IntegrityError:  # the job runs again already, for a later fire
            return None
        return Won(*row) if row else None

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
        return await self._changed(update(job_runs).where(dead).values(**values))

    async def disown_all(self) -> None:
        """Expire every lease: only for the one process that schedules, when it starts."""
        statement = update(job_runs).where(_run.lease_until > 0).values(lease_until=0)
        await self._changed(statement)

    async def _changed(self, statement: Update) -> bool:
        async with self.database.writing() as connection:
            return (await connection.execute(statement)).rowcount == 1


def _json(fires: Iterable[tuple[Any, ...]]) -> str:
    return json.dumps(
        [
            {
                "position": position,
                "job": fire.job,
                "fire_time": fire.time,
                "active_key": fire.active_key,
                "outcome": outcome[0] if outcome else None,
            }
            for position, fire, *outcome in fires
        ]
    )


def _attempts(attempts: Sequence[dict[str, Any]]) -> str | None:
    return json.dumps(list(attempts)) if attempts else None
