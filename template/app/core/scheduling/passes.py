"""APScheduler's pass over the due jobs, made so that it cannot die and does not hold the loop."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_SUBMITTED
from apscheduler.job import Job as ScheduledJob
from apscheduler.schedulers.base import STATE_RUNNING, STATE_STOPPED
from apscheduler.triggers.base import BaseTrigger

from app.core.scheduling.apscheduler_ import (
    TypedMemoryStore,
    TypedScheduler,
    modify,
    submission,
)
from app.core.scheduling.statements import EARLY
from app.core.scheduling.triggers import Date, Trigger
from app.core.tasks import unhurried

_log = logging.getLogger(__name__)
_LONGEST_SLEEP = 1.0
_STEP = timedelta(microseconds=EARLY)


class Due(BaseTrigger):
    """One of our triggers, as APScheduler asks for it."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        if previous is None:
            return self.first(now)
        return self.trigger.next(max(previous, now - timedelta(microseconds=1)))

    def first(self, now: datetime) -> datetime | None:
        """When it fires if it is added now: a date at once, even one that has passed."""
        if isinstance(self.trigger, Date):
            return self.trigger.at.astimezone(UTC)
        return self.trigger.next(now - timedelta(microseconds=1))

    def __str__(self) -> str:
        return str(self.trigger)


class PassingScheduler(TypedScheduler):
    """Every store it passes over is in memory.

    APScheduler 3.11.3 never arms its timer again when a pass raises, and says that it is running.
    """

    last_pass: float | None = None
    """`time.monotonic()` at the end of the last pass that went well."""
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))
    """This replica's own."""
    _ahead = timedelta()
    _went_back = False
    _passing: asyncio.Task[None] | None = None

    def now(self) -> datetime:
        """When to ask, by the store's clock as it was last heard. Whether it is time, that says."""
        return self.clock() - self._ahead

    def hear(self, asked: datetime, told: datetime) -> None:
        """The store's clock, asked for when ours said `asked`: ours is right if it may be."""
        before = self._ahead
        self._ahead = max(asked - told, min(self.clock() - told, timedelta()))
        if self._ahead - before > _STEP:  # what was passed over is yet to come
            self._went_back = True
            self.wakeup()

    def start(self, paused: bool = False) -> None:
        self._due = asyncio.Event()
        self.base_start(paused)
        self._passing = asyncio.create_task(self._pass_forever(), name="scheduler")

    def wakeup(self) -> None:
        """Look for due jobs now; from any thread."""
        if self._eventloop is not None:
            self._eventloop.call_soon_threadsafe(self._due.set)

    async def _pass_forever(self) -> None:
        while self.state != STATE_STOPPED:
            wait = _LONGEST_SLEEP
            try:
                if self.state == STATE_RUNNING:
                    wait = await self._pass()
            except Exception:
                _log.exception("a scheduler pass failed; the next one follows")
            try:
                async with asyncio.timeout(wait):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def _pass(self) -> float:
        """Submit what is due; returns the seconds until there is more.

        What cannot be submitted stays due: the next pass tries again, and this one was not good.
        """
        now, failed = self.now(), set[str]()
        if self._went_back:
            self._went_back = False
            await self._set_back(now)
        for alias, store in list(self._jobstores.items()):
            async for job in unhurried(store.get_due_jobs(now)):
                try:
                    self._submit(job, store, alias, now)
                except Exception:
                    failed.add(job.id)
                    _log.exception("%s could not be submitted at its time", job.id)
        following = [store.get_next_run_time() for store in self._jobstores.values()]
        if failed:
            jobs = [job for store in self._jobstores.values() for job in store.every()]
            following = [job.next_run_time for job in jobs if job.id not in failed]
        else:
            self.last_pass = time.monotonic()
        now = self.now()
        waits: list[float] = [(at - now).total_seconds() for at in following if at is not None]
        return max(0.0, min([*waits, _LONGEST_SLEEP]))

    async def _set_back(self, now: datetime) -> None:
        """Our clock had been set forward, and we believed it."""
        for store in self._jobstores.values():
            async for job in unhurried(list(store.every())):
                trigger, due = job.trigger.trigger, job.next_run_time
                if due is None or isinstance(trigger, Date):
                    continue
                if (earlier := trigger.next(now)) and earlier < due:
                    self.reset(job, store, earlier)

    def _submit(
        self, job: ScheduledJob, store: TypedMemoryStore, alias: str, now: datetime
    ) -> None:
        """One fire: the newest that is due. Those between are the cursor's business."""
        trigger: Trigger = job.trigger.trigger
        due: datetime = job.next_run_time
        fire_time = max(trigger.last(now) or due, due)
        self.plug(job.executor).submit_job(job, [fire_time])
        self.reset(job, store, trigger.next(max(now, fire_time)))
        event = submission(EVENT_JOB_SUBMITTED, job.id, alias, [fire_time])
        self.dispatch(event)

    def reset(self, job: ScheduledJob, store: TypedMemoryStore, at: datetime | None) -> None:
        """Set a job's next fire time, in memory."""
        if store.find(job.id) is None:
            return
        modify(job, next_run_time=at)
        if at is None and self.forgets(store):
            store.remove(job.id)
        else:
            store.replace(job)

    def forgets(self, store: object) -> bool:
        """Does this store drop a job that has no fire time left?"""
        return True
