"""What every executor offers, and the call that it is handed."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from app.core.database import Database
from app.core.logging import log_context
from app.core.scheduling.declaration import Job
from app.core.scheduling.run import Run

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from app.settings import Settings

_LONGEST_ERROR = 8_000


@dataclass(frozen=True)
class Call:
    """One attempt at one fire. Holds no settings and no live resource: it may go to a worker."""

    job: Job
    key: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    fire_time: datetime
    attempt: int
    fence: int
    run_id: int

    def run(self, settings: Settings, database: Database) -> Run:
        return Run(
            settings=settings,
            job_id=self.job.id,
            key=self.key,
            fire_time=self.fire_time,
            attempt=self.attempt,
            fence=self.fence,
            run_id=self.run_id,
            database=database,
        )

    def logging(self) -> AbstractContextManager[None]:
        """Every line inside names the run."""
        return log_context(**names(self.job, self.key, self.run_id, self.fire_time))


@dataclass(frozen=True)
class Ended:
    """How an attempt ended. `still_running` is done when the function, not heeding, has ended."""

    outcome: Literal["succeeded", "failed", "timed_out", "cancelled"]
    error: str | None = None
    still_running: Awaitable[object] | None = None


class ExecutorBackend(Protocol):
    """One way to run functions."""

    slots: int
    """How many functions it runs at a time; no more are claimed."""

    def refuses(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Why it could not run a job that is added to this process's memory; None if it can."""

    async def execute(self, call: Call) -> Ended:
        """Run it to its end. Cancelled, it ends the function as far as it can, and says how."""

    async def close(self) -> None:
        """End what is left. Nothing it has started outlives this."""


def names(job: Job, key: str, run_id: int, fire_time: datetime) -> dict[str, Any]:
    """How log lines name a run. A job added at run time is named by its entry as well."""
    entry = {} if key == job.id else {"entry": key}
    return {"job": job.id, **entry, "run_id": run_id, "fire_time": fire_time.isoformat()}


def describe(error: BaseException) -> str:
    """An exception as text: it may not survive pickling, and the ledger keeps text."""
    return "".join(traceback.format_exception(error))[-_LONGEST_ERROR:]


def unawaited(result: object) -> None:
    """Raise `TypeError` if a function gave a coroutine back: nobody would ever run it."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("it returned a coroutine, which was not awaited; declare it `async def`")


def timed_out(job: Job) -> str:
    return f"took longer than its timeout of {job.timeout:g} s"
