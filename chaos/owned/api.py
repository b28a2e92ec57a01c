"""Reminders over HTTP: a job that is added while the service runs."""

from datetime import UTC, datetime

from app.core.dependencies import Scheduler
from fastapi import APIRouter, Request

router = APIRouter(prefix="/reminders", tags=["reminders"])


@router.post("/{name}", status_code=201)
async def remind(name: str, at: float, scheduler: Scheduler, request: Request) -> None:
    """Due at this time, in seconds of the epoch. It is in the job store before this answers."""
    when = datetime.fromtimestamp(at, UTC)
    job = request.app.state.jobs["chaos.remind"]
    await scheduler.add_job_async(job, "date", run_date=when, id=name, kwargs={"name": name})
