"""Telling the first stop signal from the second, around the handlers of the server."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Call `first` on the loop at the first SIGINT or SIGTERM, `second` at each one after it.

    uvicorn waits for open connections before the lifespan ends, so it hears of a stop too late
    to give up its claims. Its own handlers are called as before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    calls = [first]

    def handle(number: int, frame: FrameType | None) -> None:
        if not calls:  # uvicorn waits for open connections until it hears of a second SIGINT
            number = signal.SIGINT
        loop.call_soon_threadsafe(calls.pop() if calls else second)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
