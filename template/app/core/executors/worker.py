"""A worker process of the process pool: reads calls, runs them, writes how they ended.

It imports the jobs and little else, and keeps one event loop and one engine for all its runs.
"""

import asyncio
import os
import pickle
import signal
import struct
import threading
from queue import SimpleQueue
from typing import BinaryIO

from app.core import database
from app.core.executors.asyncio_ import run_coroutine
from app.core.executors.protocol import Call, Ended, describe, unawaited
from app.core.logging import configure_logging
from app.core.scheduling import named_lock
from app.core.wiring import database as chosen
from app.core.wiring import lock
from app.settings import Settings

_LENGTH = struct.Struct("!I")


def main(calls: int, answers_to: int) -> None:
    """Serve the parent, over these two pipes, until it closes the first or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which the programs that a job starts would inherit.
        signal.signal(number, lambda *_: None)
    os.nice(10)
    answers = os.fdopen(answers_to, "wb", buffering=0)
    messages: SimpleQueue[bytes] = SimpleQueue()
    source = os.fdopen(calls, "rb")
    threading.Thread(target=_listen, args=(source, messages), daemon=True).start()
    settings: Settings = pickle.loads(messages.get())
    configure_logging(settings)
    opened = database.Database(settings, chosen.DIALECT)
    database.use(opened)
    named_lock.use(lock.named_locks(settings, opened))
    with asyncio.Runner() as loop:
        while True:
            message = messages.get()
            _answer(answers, None)
            _answer(answers, _run(message, settings, opened, loop))


def _run(
    message: bytes, settings: Settings, opened: database.Database, loop: asyncio.Runner
) -> Ended:
    try:
        call: Call = pickle.loads(message)
        if call.job.is_async:
            return loop.run(run_coroutine(call, settings, opened))
        with call.logging():
            unawaited(call.job.bind(call.run(settings, opened), call.args, call.kwargs)())
    except BaseException as error:
        return Ended("failed", describe(error))
    return Ended("succeeded")


def _listen(source: BinaryIO, messages: SimpleQueue[bytes]) -> None:
    """Hand on the parent's messages. At its end, idle or in mid-run, this process ends too."""
    while header := source.read(_LENGTH.size):
        messages.put(source.read(_LENGTH.unpack(header)[0]))
    os.killpg(0, signal.SIGKILL)  # and whatever a job has started


def _answer(answers: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    answers.write(_LENGTH.pack(len(data)) + data)
