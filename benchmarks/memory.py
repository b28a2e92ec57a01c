"""Memory of a service, and how soon it serves, against bare FastAPI and uvicorn."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.figures import REPETITIONS, plain, progress, ratio
from benchmarks.rendered import render
from benchmarks.serving import bare, descendants, resident, served, weight

_SETTLED = 2.0
_BUSY = """import time

from app.core.scheduling import interval, job


@job(interval(seconds=0.5), executor="processpool")
def busy() -> None:
    time.sleep(0.4)


@job(interval(seconds=0.5), executor="processpool")
def busy_too() -> None:
    time.sleep(0.4)
"""


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

    (service / "app/jobs/busy.py").write_text(_BUSY, encoding="utf-8")
    whole = [working(service) for _ in progress("busy services", max(3, REPETITIONS // 2))]
    plain("memory: with two busy worker processes, what they share once", whole, "MB")


def idle(folder: Path) -> tuple[float, float]:
    """Resident megabytes once it is idle, and the seconds until it answered."""
    with served(folder) as server:
        time.sleep(_SETTLED)
        return resident(server.pid), server.seconds


def working(folder: Path) -> float:
    """Megabytes of a service and all its processes, as a container counts them."""
    with served(folder) as server:
        time.sleep(2 * _SETTLED)
        workers = descendants(server.pid)
        assert len(workers) >= 2, "no two workers"
        return sum(map(weight, (server.pid, *workers)))
