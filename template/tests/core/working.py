"""A worker for the tests, a process of its own, with FILE for notes."""

import asyncio
import multiprocessing as mp
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from app.core.logging import configure_logging
from app.core.scheduling import Run, job
from app.core.scheduling.declaration import Job
from app.core.worker import Worker
from app.settings import Settings
from tests.core.sample_jobs import note, note_async


def _note(run: Run, what: str) -> None:
    with Path(os.environ["FILE"]).open("a") as notes:
        notes.write(f"{run.job_id} {what} {run.attempt} {os.getpid()}\n")


@job(id="brief")
async def brief(run: Run, word: str = "did") -> None:
    _note(run, word)


@job(id="hanging")
async def hanging(run: Run) -> None:
    """Begins; the first time it is in no hurry to end."""
    _note(run, "began")
    if run.attempt == 1:
        await asyncio.sleep(60)
    _note(run, "ended")


@job(id="lasting")
async def lasting(run: Run) -> None:
    """Ends when it is told to."""
    _note(run, "began")
    while not Path(f"{os.environ['FILE']}.go").exists():
        await asyncio.sleep(0.02)
    _note(run, "ended")


JOBS: dict[str, Job] = {job.id: job for job in (brief, hanging, lasting, note, note_async)}


class Process(ForkServerProcess):
    """Begins with what this file imports, which takes four fifths of the start of a worker.

    Nothing else is shared: it is forked off a process that has done nothing but import.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(target=_main, args=(dict(environment), Path.cwd()))
        mp.get_context("forkserver").set_forkserver_preload([__name__])
        with mock.patch.dict(os.environ, environment):  # PYTHONPATH: Python below 3.14 needs it
            self.start()

    def send(self, number: signal.Signals) -> None:
        assert self.pid
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, number)

    def ended(self, seconds: float = 30) -> int | None:
        """Its exit status, negative if a signal ended it; None if it still runs after so long."""
        self.join(seconds)
        return self.exitcode


def _main(environment: dict[str, str], folder: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    settings = Settings.load().model_copy(update={"lease_seconds": float(os.environ["LEASE"])})
    configure_logging(settings)
    asyncio.run(Worker(settings, JOBS).run())
