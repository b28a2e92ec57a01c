"""When the whole machine stood still: that is no fault of ours, and nobody could have claimed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEP, _STALL = 0.05, 0.5


@contextmanager
def stalls(outages: list[tuple[float, float]]) -> Iterator[None]:
    """Note each time in which this process, which has little to do, was not run either."""
    over = threading.Event()

    def watch() -> None:
        before = time.time()
        while not over.wait(_STEP):
            now = time.time()
            if now - before > _STALL:
                outages.append((before, now))
            before = now

    watching = threading.Thread(target=watch, name="stalls", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
