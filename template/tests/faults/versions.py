"""Three versions of one service: `python -m tests.faults.versions` runs the one of VERSION."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.scheduling import Run, interval, job
from app.core.scheduling.declaration import Job
from app.core.service import Service
from app.settings import Settings


def _note(run: Run, **arguments: Any) -> None:
    told = " ".join(f"{name}={value}" for name, value in arguments.items())
    with Path(os.environ["FILE"]).open("a") as notes:
        notes.write(f"{os.environ['VERSION']} {run.job_id} {run.fire_time.isoformat()} {told}\n")


async def plain(run: Run) -> None:
    _note(run)


async def told_word(run: Run, word: str) -> None:
    _note(run, word=word)


async def told_number(run: Run, number: int) -> None:
    _note(run, number=number)


async def hangs(run: Run) -> None:
    """Until it is let go."""
    _note(run)
    while not Path(os.environ["FILE"]).with_suffix(".go").exists():
        await asyncio.sleep(0.05)


def _often(function: Callable[..., Any], id: str, **kwargs: Any) -> Job:
    return job(interval(seconds=0.2), id=id, executor="asyncio", kwargs=kwargs)(function)


def _asked_for(function: Callable[..., Any], id: str) -> Job:
    return job(id=id, executor="asyncio")(function)


def jobs(version: str) -> list[Job]:
    """Between them one is added, one renamed, one removed, and two get other arguments."""
    match version:
        case "1":
            return [
                _often(told_word, "steady", word="one"),
                _often(plain, "renamed"),
                _often(plain, "removed"),
                _often(hangs, "hanging"),
                _asked_for(told_word, "remind"),
                _asked_for(plain, "asked-removed"),
            ]
        case "2":
            return [
                _often(told_word, "steady", word="two"),
                _often(plain, "has-another-name"),
                _often(plain, "removed"),
                _often(plain, "added"),
                _asked_for(told_word, "remind"),
                _asked_for(plain, "asked-removed"),
            ]
        case _:
            return [
                _often(told_number, "steady", number=3),
                _often(plain, "has-another-name"),
                _often(plain, "added"),
                _asked_for(told_number, "remind"),
            ]


async def _serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.load().model_copy(update={"lease_seconds": 5})
    service = Service(settings, {job.id: job for job in jobs(os.environ["VERSION"])})
    await service.start()
    await stop.wait()
    await service.stop()


if __name__ == "__main__":
    asyncio.run(_serve())
