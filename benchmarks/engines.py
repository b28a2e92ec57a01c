"""A run's whole trip through an engine, claim and record included, against the engine by itself."""

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

from benchmarks.figures import REPETITIONS, plain, progress, ratio
from benchmarks.rendered import measure, render, settings, urls

if TYPE_CHECKING:
    from app.core.service import Service

    from benchmarks.bare_engines import Send

CALLS = 20
_numbers = count(1)


def engines(work: Path) -> None:
    for engine in ("procrastinate", "taskiq"):
        answers = {"database": "postgresql", "lock_backend": "database", "executor": engine}
        measure("engines", render(work / engine, **answers))


async def main() -> None:
    from app.core import wiring
    from app.core.service import Service

    from benchmarks.bare_engines import sending

    engine, notes = wiring.DEFAULT_EXECUTOR, Path("notes")
    notes.touch()
    with settings() as given:
        environment = {**os.environ, **urls(given)}
        commands = ("benchmarks.working",), ("benchmarks.bare_engines", engine, str(notes))
        service = Service(given, {})
        await service.start()
        service.runner.wanted = lambda entry: True  # the scheduler knows none of these
        workers = [
            await asyncio.create_subprocess_exec(sys.executable, "-m", *command, env=environment)
            for command in commands
        ]
        trips, bare = [], []
        try:
            async with sending(engine, given) as send:
                for repetition in progress(engine, REPETITIONS + 1):
                    ours, theirs = [], []
                    for _ in range(CALLS):
                        ours.append(await trip(service))
                        theirs.append(await bare_trip(send, notes))
                    if repetition:
                        trips.append(statistics.median(ours))
                        bare.append(statistics.median(theirs))
        finally:
            await service.stop()
            for worker in workers:
                with suppress(ProcessLookupError):
                    worker.terminate()
                await worker.wait()
    plain(f"{engine}: a whole run (claim, send, worker, record)", trips)
    plain("       by itself: a task sent to its worker", bare)
    ratio("       / by itself", trips, bare, 1.3)


async def bare_trip(send: Send, notes: Path) -> float:
    """Milliseconds from the call that sends it to the end of the task."""
    before, sent = notes.stat().st_size, time.time()
    await send()
    async with asyncio.timeout(60):
        while notes.stat().st_size == before:
            await asyncio.sleep(0.01)
    return (float(notes.read_text().split()[-1]) - sent) * 1e3


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
