"""A service under uvicorn whose jobs are in mid-run when it is told to stop: `service()`."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app.core.app import create_app
from app.core.scheduling import Job, Run, interval, job

LONG = 600.0
BRIEF = 1.0


def _begin(run: Run) -> bool:
    """Notes the processes that are the job's; is there to be a stop in the middle of it?"""
    file = Path(os.environ["FILE"])
    if file.with_suffix(".stopped").exists():
        return False
    pids = [os.getpid()]
    if "process" in run.job_id:
        pids.append(subprocess.Popen(["sleep", str(LONG)]).pid)
    with file.open("a") as notes:
        notes.write(f"{run.job_id} {' '.join(map(str, pids))}\n")
    return True


async def wait(run: Run, seconds: float) -> None:
    if _begin(run):
        await asyncio.sleep(seconds)


def block(run: Run, seconds: float) -> None:
    if _begin(run):
        time.sleep(seconds)


def _declare(id: str, body: Callable[..., Any], executor: str, seconds: float) -> Job:
    often = interval(seconds=0.5)
    return job(often, id=id, executor=executor, kwargs={"seconds": seconds})(body)


JOBS = [
    _declare(f"{name}-{length}", body, executor, seconds)
    for name, body, executor in (
        ("coroutine", wait, "asyncio"),
        ("coroutine-beside", wait, "threadpool"),
        ("thread", block, "threadpool"),
        ("coroutine-in-process", wait, "processpool"),
        ("process", block, "processpool"),
    )
    for length, seconds in (("brief", BRIEF), ("long", LONG))
]


def service() -> FastAPI:
    api = create_app()
    api.state.jobs = {job.id: job for job in JOBS}
    return api
