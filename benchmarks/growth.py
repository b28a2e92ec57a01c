"""Memory of a service that has run 100,000 fires, against the same after its first thousands."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import plain, progress, ratio
from benchmarks.rendered import measure, rendered, settings
from benchmarks.serving import resident

if TYPE_CHECKING:
    from app.core.service import Service

VARIANTS = (
    {"database": "sqlite"},
    {"database": "postgresql", "lock_backend": "redis", "job_store": "redis"},
)
FIRST, FIRES, TOGETHER = 10_000, 100_000, 200
_numbers = count(1)


def growth(work: Path) -> None:
    for folder in rendered(work, VARIANTS, f"{FIRES:,} fires: ", executor="asyncio"):
        measure("growth", folder)


async def main() -> None:
    from app.core.service import Service

    logging.disable(logging.CRITICAL)
    with settings() as given:
        service = Service(given, {})
        await service.start()
        service.runner.wanted = lambda entry: True  # the scheduler knows none of these
        for _ in progress("the first", FIRST // TOGETHER):
            await fires(service)
        gc.collect()
        before = resident(os.getpid())
        for _ in progress("the others", FIRES // TOGETHER):
            await fires(service)
        gc.collect()
        after = resident(os.getpid())
        plain(f"memory after {FIRST:,} fires", [before], "MB")
        plain(f"after {FIRES:,} more", [after], "MB")
        ratio("       ratio", [after], [before], 1.05)
        await service.stop()


async def fires(service: Service) -> None:
    from app.core.scheduling.entry import Entry, Settlement

    from benchmarks.jobs import coroutine_job

    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(TOGETHER):
        done: asyncio.Future[Settlement] = loop.create_future()
        entry = Entry(f"job-{next(_numbers)}", coroutine_job, (), {}, "asyncio", origin="store")
        service.runner.submit(entry, int(time.time() * 1e6), done.set_result)
        waits.append(done)
    for each in await asyncio.gather(*waits):
        assert each.outcome == "succeeded"


if __name__ == "__main__":
    asyncio.run(main())
