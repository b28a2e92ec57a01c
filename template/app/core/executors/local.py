"""The executors that every service has, whichever is its default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.core.database import Database
from app.core.executors.asyncio_ import AsyncioExecutor
from app.core.executors.processpool import ProcesspoolExecutor
from app.core.executors.protocol import ExecutorBackend
from app.core.executors.threadpool import ThreadpoolExecutor

if TYPE_CHECKING:
    from app.settings import Settings


def local_executors(settings: Settings, database: Database) -> dict[str, ExecutorBackend]:
    """By name. Threads and processes are started when a job first needs them."""
    threads = ThreadpoolExecutor(settings, database)
    return {
        "asyncio": AsyncioExecutor(settings, database, threads),
        "threadpool": threads,
        "processpool": ProcesspoolExecutor(settings, database),
    }
