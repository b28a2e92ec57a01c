"""APScheduler's plug for executors: where a fire time becomes a run."""

from datetime import datetime
from typing import Any

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MISSED,
)
from apscheduler.job import Job as ScheduledJob

from app.core.scheduling.apscheduler_ import TypedExecutor, execution
from app.core.scheduling.entry import Entry, Settlement
from app.core.scheduling.runner import Runner
from app.core.scheduling.triggers import microseconds

_EVENTS = {
    "succeeded": EVENT_JOB_EXECUTED,
    "skipped": EVENT_JOB_MISSED,
    "missed": EVENT_JOB_MISSED,
}


class JobFailed(RuntimeError):
    """What APScheduler's listeners get as the exception of a run that did not succeed."""


class JobExecutor(TypedExecutor):
    """Hands fires to the runner. Overlap is the claim's business, so instances are not counted."""

    _scheduler: Any

    def __init__(self, runner: Runner, name: str) -> None:
        self.base_init()
        self._runner = runner
        self.name = name

    def submit_job(self, job: ScheduledJob, run_times: list[datetime]) -> None:
        self._do_submit_job(job, run_times)

    def _do_submit_job(self, job: ScheduledJob, run_times: list[datetime]) -> None:
        entry: Entry = self._scheduler.entry(job)
        store = job._jobstore_alias
        for fire_time in run_times:

            def settled(result: Settlement, fire_time: datetime = fire_time) -> None:
                self._scheduler.settled(entry, result)
                if result.outcome is not None:
                    code = _EVENTS.get(result.outcome, EVENT_JOB_ERROR)
                    failed = JobFailed(result.error) if code == EVENT_JOB_ERROR else None
                    event = execution(code, job.id, store, fire_time, exception=failed)
                    self._scheduler.dispatch(event)

            self._runner.submit(entry, microseconds(fire_time), settled)
