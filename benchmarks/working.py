"""A worker for the benchmark of the engines, as a process."""

from __future__ import annotations

import asyncio


def main() -> None:
    from app.core.worker import Worker
    from app.settings import Settings

    from benchmarks.jobs import coroutine_job

    asyncio.run(Worker(Settings.load(), {coroutine_job.id: coroutine_job}).run())


if __name__ == "__main__":
    main()
