"""The ledger's statements that are built once: building them took longer than the server does."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    String,
    Subquery,
    Update,
    and_,
    case,
    false,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.types import TypeEngine

from app.core.databases import Dialect
from app.core.scheduling.batch import COLUMNS
from app.core.schema import job_runs, job_schedules

EARLY = 250_000
"""Microseconds before its time, by the store's clock, from which on a fire may be claimed."""

_run = job_runs.c


def looking(dialect: Dialect) -> Select[Any]:
    """What the ledger has on each fire, and on the run that holds its key (`fence`, ...)."""
    batch, now = dialect.rows("batch", COLUMNS), dialect.now()
    run, of_run = dialect.only(
        job_runs,
        "run",
        lambda row: and_(row.c.job == batch.c.job, row.c.fire_time == batch.c.fire_time),
    )
    holder, of_holder = dialect.only(
        job_runs, "holder", lambda row: row.c.active_key == batch.c.active_key
    )
    return (
        select(
            batch.c.position,
            batch.c.job.label("asked_job"),
            batch.c.fire_time.label("asked_time"),
            batch.c.active_key,
            batch.c.fence.label("asked_fence"),
            batch.c.late,
            batch.c.sent.label("to_send"),
            run.c.id,
            run.c.outcome,
            holder.c.fence,
            holder.c.job,
            holder.c.fire_time,
            holder.c.lease_until,
            holder.c.sent,
            is_paused(now).label("paused"),
            # Not so where there is no cursor.
            func.coalesce(job_schedules.c.accounted_until >= batch.c.fire_time, false()).label(
                "accounted"
            ),
            now.label("now"),
        )
        .select_from(batch)
        .outerjoin(run, of_run)
        .outerjoin(holder, of_holder)
        .outerjoin(job_schedules, job_schedules.c.job == batch.c.job)
    )


def plainly_free(looked: FromClause, window: int, patience: int) -> Subquery:
    """Of what was looked at, that which only has to be recorded to be won."""
    c = looked.c
    due = and_(c.asked_time <= c.now + EARLY, c.asked_time >= c.now - window)
    in_time = or_(c.late, c.asked_time >= c.now - patience)
    open_ = and_(c.to_send.is_(None), ~c.paused, ~c.accounted)
    free = and_(c.id.is_(None), c.fence.is_(None), open_)
    return (
        select(
            c.position,
            c.asked_job.label("job"),
            c.asked_time.label("fire_time"),
            c.active_key,
            c.asked_fence.label("fence"),
            c.to_send.label("sent"),
            c.outcome,
        )
        .where(free, due, in_time)
        .subquery("free")
    )


def is_paused(now: ColumnElement[int]) -> ColumnElement[bool]:
    """Of a row of job_schedules."""
    schedule = job_schedules.c
    ends = or_(schedule.paused_until.is_(None), schedule.paused_until > now)
    return and_(schedule.paused_at.is_not(None), ends)


def completion(dialect: Dialect, fence: int, lease: float) -> Update:
    """Complete the run as the last statement of its own transaction; no row, no longer ours."""
    mine = and_(_run.fence == fence, _run.outcome.is_(None), dialect.ended_when_idle(lease))
    return update(job_runs).where(mine).values(outcome="succeeded", finished_at=dialect.now())


def touch(dialect: Dialect, fence: int, lease: float) -> Update:
    """Lock the run's row until the transaction ends, so that nobody takes it over meanwhile."""
    mine = and_(_run.fence == fence, _run.outcome.is_(None), dialect.ended_when_idle(lease))
    return update(job_runs).where(mine).values(attempt=_run.attempt)


def freeing(now: ColumnElement[int], fence: int, spare: ColumnElement[int] | int) -> Update:
    """Free the key of a dead holder. Its fire is still owed: recovery runs it later."""
    expired = and_(_run.fence == fence, _run.sent.is_(None), _run.lease_until < now)
    open_until = case((_run.outcome.is_(None), 0))
    freed = {"active_key": None, "lease_until": open_until, "fence": spare}
    return update(job_runs).where(expired).values(**freed)


END: Mapping[str, TypeEngine[Any]] = {
    "of": BigInteger(),
    "ended": String(),
    "error": String(),
    "attempt": Integer(),
    "attempts": String(),
    "release": Boolean(),
}


def ending(now: ColumnElement[int], end: Any) -> ReturningUpdate[Any]:
    """Record how a run ended, unless that stands already; `end` has the columns of END."""
    return (
        update(job_runs)
        .where(_run.fence == end.of)
        .values(
            outcome=func.coalesce(_run.outcome, end.ended),
            finished_at=func.coalesce(_run.finished_at, now),
            error=end.error,
            attempt=end.attempt,
            attempts=end.attempts,
            active_key=case((end.release, null()), else_=_run.active_key),
            lease_until=case((end.release, null()), else_=_run.lease_until),
        )
        .returning(_run.fence, _run.outcome)
    )
