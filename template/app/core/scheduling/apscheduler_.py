"""APScheduler, which has no types: the calls that we make to its own methods, typed here alone."""

from collections.abc import Callable
from typing import Any, ClassVar

from apscheduler.events import (
    EVENT_ALL,
    JobExecutionEvent,
    JobSubmissionEvent,
    SchedulerEvent,
)
from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job as ScheduledJob
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.util import undefined

_get_job: Callable[..., ScheduledJob | None] = AsyncIOScheduler.get_job
_get_jobs: Callable[..., list[ScheduledJob]] = AsyncIOScheduler.get_jobs
_add_listener: Callable[..., None] = AsyncIOScheduler.add_listener
# AsyncIOScheduler's own only asks the loop to do it later.
_shutdown: Callable[..., None] = BaseScheduler.shutdown


class TypedScheduler(AsyncIOScheduler):
    base_init: ClassVar[Callable[..., None]] = AsyncIOScheduler.__init__
    base_start: ClassVar[Callable[..., None]] = AsyncIOScheduler.start
    base_add_job: ClassVar[Callable[..., ScheduledJob]] = AsyncIOScheduler.add_job
    base_modify_job: ClassVar[Callable[..., ScheduledJob]] = AsyncIOScheduler.modify_job
    base_pause_job: ClassVar[Callable[..., ScheduledJob]] = AsyncIOScheduler.pause_job
    base_resume_job: ClassVar[Callable[..., ScheduledJob | None]] = AsyncIOScheduler.resume_job
    base_reschedule_job: ClassVar[Callable[..., ScheduledJob]] = AsyncIOScheduler.reschedule_job
    base_remove_job: ClassVar[Callable[..., None]] = AsyncIOScheduler.remove_job
    dispatch: ClassVar[Callable[..., None]] = AsyncIOScheduler._dispatch_event
    plug: ClassVar[Callable[..., Any]] = AsyncIOScheduler._lookup_executor

    def get_job(self, job_id: str, jobstore: str | None = None) -> ScheduledJob | None:
        """The job as this process's memory has it."""
        return _get_job(self, job_id, jobstore)

    def get_jobs(
        self, jobstore: str | None = None, pending: bool | None = None
    ) -> list[ScheduledJob]:
        """The jobs that this process's memory has."""
        return _get_jobs(self, jobstore, pending)

    def add_listener(
        self, callback: Callable[[SchedulerEvent], object], mask: int = EVENT_ALL
    ) -> None:
        """Call `callback` for each event of `mask`, on the event loop."""
        _add_listener(self, callback, mask)

    def base_shutdown(self, wait: bool) -> None:
        _shutdown(self, wait)


class TypedMemoryStore(MemoryJobStore):
    base_init: ClassVar[Callable[..., None]] = MemoryJobStore.__init__
    find: ClassVar[Callable[..., ScheduledJob | None]] = MemoryJobStore.lookup_job
    every: ClassVar[Callable[..., list[ScheduledJob]]] = MemoryJobStore.get_all_jobs
    insert: ClassVar[Callable[..., None]] = MemoryJobStore.add_job
    replace: ClassVar[Callable[..., None]] = MemoryJobStore.update_job
    remove: ClassVar[Callable[..., None]] = MemoryJobStore.remove_job
    clear: ClassVar[Callable[..., None]] = MemoryJobStore.remove_all_jobs


class TypedExecutor(BaseExecutor):
    base_init: ClassVar[Callable[..., None]] = BaseExecutor.__init__


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, by APScheduler's own mark for those that were not."""
    return {name: value for name, value in options.items() if value is not undefined}


memory_store: Callable[[], TypedMemoryStore] = TypedMemoryStore
new_job: Callable[..., ScheduledJob] = ScheduledJob
modify: Callable[..., None] = ScheduledJob._modify
submission: Callable[..., SchedulerEvent] = JobSubmissionEvent
execution: Callable[..., SchedulerEvent] = JobExecutionEvent
not_found: Callable[[str], Exception] = JobLookupError
