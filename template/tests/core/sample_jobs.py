"""Jobs for the tests, in a module of their own: worker processes import them from here."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from app.core.scheduling import Run, job, lock

let_go = threading.Event()


def _note(file: str) -> None:
    with Path(file).open("a") as notes:
        notes.write(f"{os.getpid()} {threading.current_thread().name} {os.getppid()}\n")


@job()
def note(file: str) -> None:
    _note(file)


@job()
async def note_async(run: Run, file: str) -> None:
    await asyncio.sleep(0)
    assert run.fence
    _note(file)


class Unpicklable(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")
        self.stream = sys.stdout


@job()
def fail() -> None:
    raise Unpicklable("this", "that")


@job()
async def fail_async() -> None:
    raise Unpicklable("this", "that")


@job(timeout=0.1)
def sleep_too_long() -> None:
    let_go.wait(60)


@job(timeout=0.1)
async def sleep_too_long_async() -> None:
    await asyncio.sleep(30)


@job()
def leave() -> None:
    sys.exit("a job cannot end the service")


@job()
def speak() -> None:
    logging.getLogger("anybody").warning("hello from the run")


@job()
async def speak_async() -> None:
    await asyncio.sleep(0)
    logging.getLogger("anybody").warning("hello from the run")


@job()
def forget() -> object:
    return asyncio.sleep(0)


@job()
def fail_unspeakably() -> None:
    raise ValueError("\0 and \ud800")


@job()
async def hold_the_loop() -> None:
    time.sleep(0.06)  # noqa: ASYNC251


@job(timeout=0.5)
def start_and_hang(file: str) -> None:
    subprocess.run(["cat"], check=True)  # its stdin is not the service's
    started = subprocess.Popen(["sleep", "600"])
    Path(file).write_text(str(started.pid))
    started.terminate()
    started.wait()  # a signal reaches it
    Path(file).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)


@job()
def chatter(file: str) -> None:
    print("x" * 100_000)
    _note(file)


@job()
def hold_lock(file: str, until: str, name: str = "shared") -> None:
    with lock(name):
        _note(file)
        while not Path(until).exists():
            time.sleep(0.005)


@job()
async def half(run: Run, crash: bool) -> None:
    """Two writes in one transaction, and an end in between if asked."""
    from sqlalchemy import text

    async with run.unit_of_work() as session:
        await session.execute(text("UPDATE job_counters SET value = value + 1000"))
        if crash:
            os._exit(9)
        await session.execute(text("UPDATE job_counters SET value = value + 1000"))


class Service:
    """A service as the guide has it: it stores settings, so it can be pickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    async def run_public_contract_aggregation_job(self) -> None:
        await asyncio.sleep(0)
        _note(self.file)
