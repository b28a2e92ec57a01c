"""What jobs cost the web part: requests a second, and how long the slowest one in a hundred takes.

The client is this process: raw HTTP over kept connections. Paced requests are timed from when they
were to be sent, so that a server that stands still is charged for all whom it kept waiting.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from benchmarks.figures import REPETITIONS, p99, plain, progress, ratio
from benchmarks.rendered import measure, render, rendered, settings, urls
from benchmarks.serving import bare, served

VARIANTS = (
    {"database": "sqlite"},
    {"database": "postgresql"},
    {"database": "postgresql", "lock_backend": "redis", "job_store": "redis"},
)
CONNECTIONS, SECONDS, RATE = 8, 4.0, 200
Kind = tuple[str, Callable[[], AbstractContextManager[None]]]
_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: service\r\n\r\n"
_OFTEN = """
from app.core.scheduling import interval, job

for number in range(100):

    @job(interval(seconds=1), id=f"often-{number}", executor="asyncio")
    async def often() -> None:
        pass
"""
_BUSY = """
import time

from app.core.scheduling import interval, job


@job(interval(seconds=0.5), id="busy")
def busy() -> None:
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
"""


def http(work: Path) -> None:
    saturated(render(work / "default", example=False), bare(work / "bare"))
    for folder in rendered(work, VARIANTS, "", example=False):
        measure("http", folder)


def saturated(service: Path, least: Path) -> None:
    with served(service) as ours, served(least) as theirs:
        rates: dict[int, list[float]] = {ours.port: [], theirs.port: []}
        for repetition in progress("requests a second", REPETITIONS + 1):
            for port, found in rates.items():
                done = asyncio.run(as_many_as_it_takes(port))
                if repetition:
                    found.append(done)
    plain("requests a second: the default service", rates[ours.port], "")
    plain("requests a second: bare FastAPI", rates[theirs.port], "")
    ratio("requests a second: ratio", rates[ours.port], rates[theirs.port], "at least 0.85")


def main() -> None:
    quiet, busy = "no job", "0.2 s of CPU twice a second"
    kinds: dict[str, Kind] = {quiet: ("", nullcontext), "100 jobs a second": (_OFTEN, nullcontext)}
    kinds[busy] = _BUSY, nullcontext
    goals: dict[str, tuple[str, float]] = {kind: (quiet, 1.2) for kind in kinds if kind != quiet}
    if sys.platform == "linux":
        alone = "; on one processor"
        kinds |= {kind + alone: (kinds[kind][0], on_one_processor) for kind in (quiet, busy)}
        goals[busy + alone] = quiet + alone, 2
    late: dict[str, list[float]] = {kind: [] for kind in kinds}
    with settings() as given:
        variables = {**urls(given), "MIGRATE_ON_START": "false"}
        for repetition in progress("latency", REPETITIONS // 2 + 2):
            for kind, (source, where) in kinds.items():
                Path("app/jobs/measured.py").write_text(source)
                with ExitStack() as stack:
                    with where():
                        server = stack.enter_context(served(Path(), **variables))
                    time.sleep(1.5)
                    took = asyncio.run(paced(server.port))
                if repetition:
                    late[kind].append(p99(took) * 1e3)
    for kind, found in late.items():
        plain(f"99 % of requests answered within, {kind}", found)
        if kind in goals:
            other, goal = goals[kind]
            ratio(f"       / {other}", found, late[other], goal)


@contextmanager
def on_one_processor() -> Iterator[None]:
    """What is started in the block has one for all its processes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    await reader.readexactly(int(length[1]))


async def as_many_as_it_takes(port: int) -> float:
    """Requests a second over kept connections, each asking as soon as it was answered."""
    until, done = time.perf_counter() + 1.5, 0

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            await ask(reader, writer)
            done += 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return done / (time.perf_counter() - started)


async def paced(port: int) -> list[float]:
    """Seconds that each of RATE requests a second took, from when it was due."""
    took: list[float] = []
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(number, int(RATE * SECONDS), CONNECTIONS):
            due = began + turn / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await ask(reader, writer)
            took.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return took


if __name__ == "__main__":
    main()
