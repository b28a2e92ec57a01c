"""Memory of an idle service, and how soon it serves, against bare FastAPI and uvicorn."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.figures import REPETITIONS, plain, progress, ratio
from benchmarks.rendered import render
from benchmarks.serving import bare, resident, served

_SETTLED = 2.0


def memory(work: Path) -> None:
    service, small = render(work / "service"), bare(work / "bare")
    measured = [
        (idle(service), idle(small))
        for _ in progress("idle services", max(4, REPETITIONS // 2 + 1))
    ]
    ours, theirs = zip(*measured[1:], strict=True)  # the first writes bytecode
    whats = (("memory", "MB", 1.6), ("until the first answer", "s", 1.9))
    for index, (what, unit, goal) in enumerate(whats):
        full, least = ([each[index] for each in pair] for pair in (ours, theirs))
        plain(f"{what}: the default service", full, unit)
        plain(f"{what}: bare FastAPI", least, unit)
        ratio(f"{what}: ratio", full, least, goal)


def idle(folder: Path) -> tuple[float, float]:
    """Resident megabytes once it is idle, and the seconds until it answered."""
    with served(folder) as server:
        time.sleep(_SETTLED)
        return resident(server.pid), server.seconds
