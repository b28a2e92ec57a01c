"""A run's whole trip through an engine: claim, send, worker, record."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from benchmarks.figures import REPETITIONS, plain
from benchmarks.rendered import measure, render, settings

if TYPE_CHECKING:
    from app.core.service import Service

CALLS = 20
_numbers = count(1)


def engines(work: Path) -> None:
    for engine in ("procrastinate", "taskiq"):
        answers = {"database": "postgresql", "lock_backend": "database", "executor": engine}
        measure("engines", render(work / engine, **answers))


async def main() -> None:
    from app.core import wiring
    from app.core.service import Service

    with settings() as given:
        urls = {
            name.upper(): value.get_secret_value()
            for name, value in given.model_dump().items()
            if isinstance(value, SecretStr)
        }
        command = (sys.executable, "-m", "benchmarks.working")
        worker = await asyncio.create_subprocess_exec(*command, env={**os.environ, **urls})
        service = Service(given, {})
        await service.start()
        service.runner.wanted = lambda entry: True  # the scheduler knows none of these
        try:
            trips = [
                statistics.median([await trip(service) for _ in range(CALLS)])
                for _ in range(REPETITIONS + 1)
            ]
        finally:
            await service.stop()
            with suppress(ProcessLookupError):
                worker.terminate()
            await worker.wait()
    plain(f"{wiring.DEFAULT_EXECUTOR}: a whole run (claim, send, worker, record)", trips[1:])


async def trip(service: Service) -> float:
    """Milliseconds from the submit to the record, by the one clock of this machine."""
    from app.core import wiring
    from app.core.scheduling.entry import Entry
    from app.core.schema import job_runs
    from sqlalchemy import select

    from benchmarks.jobs import coroutine_job

    entry = Entry(
        f"coroutine-{next(_numbers)}", coroutine_job, (), {}, wiring.DEFAULT_EXECUTOR, "store"
    )
    submitted = int(time.time() * 1e6)
    service.runner.submit(entry, submitted, lambda settlement: None)
    recorded = select(job_runs.c.finished_at).where(job_runs.c.job == entry.key)
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.01)
            async with service.database.reading() as connection:
                if (at := await connection.scalar(recorded)) is not None:
                    return float(at - submitted) / 1e3


if __name__ == "__main__":
    asyncio.run(main())
