"""A replica for the tests, as a process: `python -m tests.core.replica`, with FILE for notes."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from app.core.scheduling import Run, interval, job
from app.core.service import Service
from app.settings import Settings


@job(id="tick", executor="asyncio")
async def tick(run: Run) -> None:
    with Path(os.environ["FILE"]).open("a") as notes:
        notes.write(f"{run.fire_time.isoformat()} {os.getpid()}\n")


@job(id="slow", executor="asyncio")
async def slow(run: Run) -> None:
    """Notes that it began; the first time it is in no hurry to end."""
    await tick(run)
    if run.attempt == 1:
        await asyncio.sleep(60)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    chosen = globals()[os.environ.get("JOB", "tick")]
    every = replace(chosen, schedule=interval(seconds=0.1 if chosen is tick else 1))
    settings = Settings.load().model_copy(update={"lease_seconds": 0.5})
    service = Service(settings, {every.id: every})
    await service.start()
    await stop.wait()
    await service.stop()


if __name__ == "__main__":
    asyncio.run(main())
