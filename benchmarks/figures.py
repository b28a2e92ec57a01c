"""Figures as ratios, from calls made in turn: a busy machine slows what is compared alike."""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

REPETITIONS = int(os.environ.get("REPETITIONS", "7"))
Work = Callable[[], Awaitable[object]]
Times = Mapping[str, list[float]]


async def in_turn(works: Mapping[str, Work], calls: int) -> Times:
    """The median of each work's `calls`, in milliseconds, for each repetition.

    In a new order each time: a call is dearer after one that has slept or ended a thread.
    """
    order = random.Random(1)
    times: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(REPETITIONS + 1):
        took: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(calls):
            for name in order.sample(list(works), len(works)):
                started = time.perf_counter()
                await works[name]()
                took[name].append((time.perf_counter() - started) * 1e3)
        if repetition:  # the first prepares statements and opens connections
            for name in works:
                times[name].append(statistics.median(took[name]))
    return times


def plain(label: str, values: Sequence[float], unit: str = "ms") -> None:
    print(f"{label:<66} {spread(values, unit)}", flush=True)


def ratio(
    label: str, values: Sequence[float], others: Sequence[float], goal: float | str | None = None
) -> None:
    """Repetition by repetition, with the goal beside it."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    most = f"at most {goal:g}" if isinstance(goal, int | float) else goal
    aim = f"   goal: {most}" if most else ""
    print(f"{label:<66} {spread(ratios, 'x')}{aim}", flush=True)


def total(*parts: Sequence[float]) -> list[float]:
    return [sum(each) for each in zip(*parts, strict=True)]


def p99(values: Sequence[float]) -> float:
    """What 99 % of them do not exceed."""
    return sorted(values)[int(len(values) * 0.99)]


def spread(values: Sequence[float], unit: str = "") -> str:
    middle = statistics.median(values)
    return f"{middle:6.2f} {unit} [{min(values):.2f} .. {max(values):.2f}]".replace("  [", " [")


def progress(what: str, count: int) -> Iterator[int]:
    """Count, and tell."""
    for number in range(count):
        print(f"  {what}: {number + 1} of {count}", end="\r", file=sys.stderr)
        yield number
    print(" " * 60, end="\r", file=sys.stderr)
