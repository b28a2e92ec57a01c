"""A worker for the tests, a process of its own: `main()`, with FILE for notes."""

import asyncio
import os
from pathlib import Path

from app.core.logging import configure_logging
from app.core.scheduling import Run, job
from app.core.scheduling.declaration import Job
from app.core.worker import Worker
from app.settings import Settings


def _note(run: Run, what: str) -> None:
    with Path(os.environ["FILE"]).open("a") as notes:
        notes.write(f"{run.job_id} {what} {run.attempt} {os.getpid()}\n")


@job(id="brief")
async def brief(run: Run, word: str = "did") -> None:
    _note(run, word)


@job(id="computing")
def computing(run: Run) -> None:
    """In a worker process of the worker: its time-out is real, and it is niced."""
    _note(run, "did")


@job(id="hanging")
async def hanging(run: Run) -> None:
    """Begins; the first time it is in no hurry to end."""
    _note(run, "began")
    if run.attempt == 1:
        await asyncio.sleep(60)
    _note(run, "ended")


JOBS: dict[str, Job] = {job.id: job for job in (brief, computing, hanging)}


def main() -> None:
    settings = Settings.load().model_copy(update={"lease_seconds": float(os.environ["LEASE"])})
    configure_logging(settings)
    asyncio.run(Worker(settings, JOBS).run())
