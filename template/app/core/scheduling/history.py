"""What became of a job, as the ledger has it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.scheduling.triggers import moment
from app.core.schema import job_runs


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
