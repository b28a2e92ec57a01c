"""A worker process of the process pool: reads calls, runs them, writes how they ended.

It imports the jobs and little else, and keeps one event loop and one engine for all its runs.
"""

import asyncio
import os
import pickle
import socket
import threading
from contextlib import suppress
from queue import SimpleQueue

from app.core import database
from app.core.executors.asyncio_ import run_coroutine
from app.core.executors.protocol import Call, Ended, describe, unawaited
from app.core.executors.wire import LENGTH, end, heed_no_signals
from app.core.logging import configure_logging
from app.core.scheduling import named_lock
from app.core.wiring import database as chosen
from app.core.wiring import lock
from app.settings import Settings


def main(number: int) -> None:
    """Serve the service, over the socket of this number, until it closes that or is gone."""
    heed_no_signals()
    os.nice(10)
    service = socket.socket(fileno=number)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(service, messages), daemon=True).start()
    settings: Settings = pickle.loads(messages.get())
    configure_logging(settings)
    opened = database.Database(settings, chosen.DIALECT)
    database.use(opened)
    named_lock.use(lock.named_locks(settings, opened))
    with asyncio.Runner() as loop:
        while True:
            message = messages.get()
            _answer(service, None)
            _answer(service, _run(message, settings, opened, loop))


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


def _listen(service: socket.socket, messages: SimpleQueue[bytes]) -> None:
    """Hand on the service's messages. At their end, idle or in mid-run, this process ends too."""
    with suppress(ConnectionError), service.makefile("rb") as source:
        while header := source.read(LENGTH.size):
            messages.put(source.read(LENGTH.unpack(header)[0]))
    end(os.getpid())


def _answer(service: socket.socket, message: object) -> None:
    data = pickle.dumps(message)
    with suppress(ConnectionError):  # then there is nobody to answer, and this process ends
        service.sendall(LENGTH.pack(len(data)) + data)
