"""What became of a job, as the ledger has it."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import Database
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.translation import schedule_of
from app.core.scheduling.triggers import Trigger, microseconds, moment
from app.core.schema import job_runs

_EARLIEST = 1_000_000
_NONE = (2**63, 2**63)


@dataclass(frozen=True)
class RunRecord:
    """One fire. `outcome` is None while it is running or waits to be run again."""

    run_id: int
    fire_time: datetime
    attempt: int
    outcome: str | None
    error: str | None
    claimed_at: datetime | None
    finished_at: datetime | None


async def last_run(session: AsyncSession, job_id: str) -> RunRecord | None:
    """The newest run of a job: the id of a declared job, or of one added at run time."""
    run = job_runs.c
    statement = (
        select(job_runs)
        .where(or_(run.job == job_id, run.job.startswith(f"{job_id}:", autoescape=True)))
        .order_by(run.fire_time.desc())
        .limit(1)
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return None
    return RunRecord(
        run_id=row.id,
        fire_time=moment(row.fire_time),
        attempt=row.attempt,
        outcome=row.outcome,
        error=row.error,
        claimed_at=moment(row.claimed_at) if row.claimed_at else None,
        finished_at=moment(row.finished_at) if row.finished_at else None,
    )


@dataclass(frozen=True)
class Audit:
    """The fires of one job: how many there were, and of how many the ledger says what became.

    `gaps` of them it does not know; it may know more than were `expected`, of a version of the
    service that has another schedule.
    """

    expected: int
    recorded: int
    gaps: int


async def audit(database: Database, orphans: Container[str] = frozenset()) -> dict[str, Audit]:
    """Every recurring job's fires since its schedule began, or was resumed, by its cursor's key.

    Not of the scheduler's `orphans`, nor of what goes by a schedule that this version cannot read:
    no version that runs accounts for them.

    Within RETENTION_DAYS, and until a lease ago: before that a fire may not be claimed yet. A fire
    that is still owed is a gap until it is caught up. Each instant is looked at, in a thread.
    """
    settings, cursors = database.settings, Cursors(database, "")
    found: dict[str, Audit] = {}
    for job, cursor in (await cursors.all()).items():
        if job in orphans:
            continue
        try:
            trigger = schedule_of(cursor)
        except ValueError:
            continue
        now = cursor.paused_at if cursor.paused else cursor.now
        until = now - int(settings.lease_seconds * 1e6)
        kept = cursor.now - int(settings.retention_days * 86_400e6) + _EARLIEST
        after = max(cursor.since, kept)
        recorded = await cursors.recorded(job, after, until)
        found[job] = await asyncio.to_thread(_compare, trigger, after, until, recorded)
    return found


def _compare(
    trigger: Trigger, after: int, until: int, recorded: Sequence[tuple[int, int]]
) -> Audit:
    """A fire that was claimed at the last moment may lie within a stretch of missed ones, too."""
    single = {last for first, last in recorded if first == last}
    stretches = iter(sorted((first, last) for first, last in recorded if first < last))
    first, last = next(stretches, _NONE)
    expected = gaps = 0
    for fire in map(microseconds, trigger.between(moment(after), moment(until))):
        while last < fire:
            first, last = next(stretches, _NONE)
        expected += 1
        gaps += fire not in single and not first <= fire <= last
        single.discard(fire)
    return Audit(expected, expected - gaps + len(single), gaps)
