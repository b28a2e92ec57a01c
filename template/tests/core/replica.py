"""A replica for the tests, a process of its own. Its jobs note in FILE when they begin."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from sqlalchemy import update

from app.core.scheduling import Job, Run, interval, job
from app.core.schema import job_counters
from app.core.service import Service
from app.settings import Settings


@job(id="tick", executor="asyncio")
async def tick(run: Run) -> None:
    with Path(os.environ["FILE"]).open("a") as notes:
        notes.write(f"{run.fire_time.isoformat()} {os.getpid()}\n")


@job(id="count", executor="asyncio")
async def count(run: Run) -> None:
    """Counts its runs; at the first try it is in no hurry to end."""
    await tick(run)
    if run.attempt == 1:
        await asyncio.sleep(5)
    async with run.unit_of_work() as session:
        await session.execute(update(job_counters).values(value=job_counters.c.value + 1))


def often(job: Job) -> Job:
    return replace(job, schedule=interval(seconds=0.1))


async def _serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    job = often({"tick": tick, "count": count}[os.environ["JOB"]])
    settings = Settings.load().model_copy(update={"lease_seconds": float(os.environ["LEASE"])})
    service = Service(settings, {job.id: job})
    await service.start()
    await stop.wait()
    await service.stop()


if __name__ == "__main__":
    asyncio.run(_serve())
