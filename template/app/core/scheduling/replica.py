"""One replica's scheduler: what it holds in memory, and what it looks after while it runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apscheduler.job import Job as ScheduledJob
from apscheduler.schedulers.base import STATE_STOPPED

from app.core.logging import in_words
from app.core.scheduling.apscheduler_ import memory_store, modify, new_job
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.declaration import Job, find, undeclared
from app.core.scheduling.entry import Entry, Settlement, check_key
from app.core.scheduling.executor import JobExecutor
from app.core.scheduling.mirror import MirrorStore
from app.core.scheduling.passes import Due, PassingScheduler
from app.core.scheduling.recovery import Recovery
from app.core.scheduling.retention import Retention
from app.core.scheduling.runner import Runner
from app.core.scheduling.schedules import Schedules
from app.core.scheduling.shared import SharedJobs
from app.core.scheduling.triggers import Date, Trigger, microseconds, moment
from app.core.stores import Definition, DefinitionStore
from app.core.tasks import end, end_between, unhurried

if TYPE_CHECKING:
    from app.settings import Settings

_log = logging.getLogger(__name__)
POLL = 0.9  # a second with the poll itself: so much later than its lease a dead run is taken over


class ReplicaScheduler(PassingScheduler):
    """Declared jobs and definitions, both mirrored into memory, kept up to date by a poll."""

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        cursors: Cursors,
        definitions: DefinitionStore | None,
        declared: Mapping[str, Job],
        default_executor: str,
    ) -> None:
        self._settings = settings
        self._default = default_executor
        self._cursors = cursors
        triggers = {job: job.trigger(settings) for job in declared.values()}
        self._triggers = {job.id: trigger for job, trigger in triggers.items() if trigger}
        self._mirror = MirrorStore(definitions, self._held, self._default) if definitions else None
        jobs = {id: declared[id] for id in self._triggers}
        for job in declared.values():
            runner.check_executor(job.executor, f"@job {job.id}")
        self._shared = SharedJobs(jobs, self._mirror, cursors)
        self._recovery = Recovery(runner, cursors, settings.lease_seconds, self.find, self.settled)
        self._schedules = Schedules(cursors, lambda: self.clock(), self.hear)
        self._retention = Retention(runner.ledger.database, settings.retention_days * 86_400)
        self._over = set[str]()
        self._runner = runner
        runner.wanted, runner.find, runner.now = self.wanted, self.find, self.now
        self._one_poll = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self.last_poll: float | None = None
        self.store_error: str | None = None
        plugs = {name: JobExecutor(runner, name) for name in runner.executors}
        self._memory, self._own = memory_store(), memory_store()
        self._not_shared = [] if self._mirror else [memory_store()]
        self.base_init(
            jobstores={
                "declared": self._own,
                "memory": self._memory,
                "default": self._mirror or self._not_shared[0],
            },
            executors={**plugs, "default": JobExecutor(runner, default_executor)},
            timezone=settings.zone,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        for id, trigger in self._triggers.items():
            self._own.insert(self._scheduled(id, jobs[id], trigger, {}, "declared"))

    async def prepare(self) -> None:
        """Read what is shared; before `start()`. Raises whatever the database raises."""
        asked = self.clock()
        self.hear(asked, moment(await self._cursors.now()))
        for job in self._own.every():  # from when they are about to be owed
            self.reset(job, self._own, job.trigger.trigger.next(self.now()))
        await self._poll()

    def start(self, paused: bool = False) -> None:
        super().start(paused)
        self._polling = asyncio.create_task(self._poll_forever(), name="poll")
        self._recovery.start(min(POLL, 0.5))

    async def stop(self) -> None:
        """Submit nothing more; the runner drains what runs."""
        await end(self._passing)
        polling = end_between(self._one_poll, self._polling)
        await asyncio.gather(polling, self._recovery.stop())  # a frozen store keeps each waiting
        if self.state != STATE_STOPPED:
            self.base_shutdown(wait=False)

    async def _poll_forever(self) -> None:
        for turn in itertools.count():
            await asyncio.sleep(POLL / 2)
            try:
                # Definitions twice as often: a change acts on all replicas within a second.
                await (self._poll() if turn % 2 else self._refresh(quietly=True))
            except Exception as error:
                _log.warning("the scheduler waits: %s", in_words(error))

    async def _poll(self) -> None:
        await self._refresh()
        async with self._one_poll:
            await self._read_shared()

    async def _refresh(self, quietly: bool = False) -> None:
        """Read the job store. If it is away, the declared jobs go on all the same."""
        async with self._one_poll:
            try:
                if self._mirror and await self._mirror.refresh(microseconds(self.now())):
                    self.wakeup()
                enough = time.monotonic() + POLL / 2
                while self._over and time.monotonic() < enough:  # the rest next time
                    await self._shared.complete(key := next(iter(self._over)))
                    self._over.discard(key)
                self.store_error = None
            except Exception as error:
                self.store_error = in_words(error)
                if not quietly:
                    _log.warning("the job store does not answer: %s", self.store_error)

    async def _read_shared(self) -> None:
        recurring = {**self._triggers, **(self._mirror.recurring() if self._mirror else {})}
        others, gone = (self._mirror.entries, self._mirror.gone) if self._mirror else ((), set())
        certain = self._triggers if self.store_error else recurring
        rows, effective = await self._schedules.read(recurring, others, gone, certain)
        async for key in unhurried(self._triggers):
            if key in rows:
                self._follow(key, effective.get(key), rows[key])
        running = self.state != STATE_STOPPED
        if running and self._recovery.account(rows, recurring, effective):
            await self._retention.sweep()
        self.last_poll = time.monotonic()

    def _follow(self, key: str, wanted: Trigger | None, row: Any) -> None:
        """Pause, resume and reschedule a declared job as its cursor says.

        Where this version cannot read what it is to go by, another one runs it.
        """
        job = self._own.find(key)
        if job is None:
            return
        paused = wanted is None or bool(row.paused)
        changed = wanted and job.trigger.trigger.fingerprint != wanted.fingerprint
        if changed or paused == (job.next_run_time is not None):
            if wanted:
                modify(job, trigger=Due(wanted))
            following = None if paused or wanted is None else wanted.next(self.now())
            self.reset(job, self._own, following)
            self.wakeup()

    @property
    def orphans(self) -> frozenset[str]:
        """Stored jobs and schedules of which this version of the service makes nothing.

        They are left as they are: for another version, or until somebody deletes them.
        """
        return self._schedules.unknown.union(self._mirror.unreadable if self._mirror else ())

    def forgets(self, store: object) -> bool:
        return store is not self._own and store is not self._mirror

    def entry(self, job: ScheduledJob) -> Entry:
        """What to run for a job that is due, and the key to claim it by."""
        store = job._jobstore_alias
        if self._mirror and store == "default":
            return self._mirror.entries[self._mirror.held[job.id].key]
        function = job.func if isinstance(job.func, Job) else undeclared(job.func, job.id)
        chosen = None if job.executor == "default" else job.executor
        # A one-off job in memory is this process's own, and its id may be used again.
        once = store != "declared" and isinstance(job.trigger.trigger, Date)
        return Entry(
            key=f"{job.id}:{time.time_ns() // 1000}" if once else job.id,
            job=function,
            args=tuple(job.args),
            kwargs=job.kwargs,
            executor=chosen or function.executor or self._default,
            origin="code" if store == "declared" else "memory",
        )

    def find(self, key: str) -> Entry | None:
        """The entry of a claim key, if this version of the service knows it."""
        if self._mirror and key in self._mirror.entries:
            return self._mirror.entries[key]
        job = self._own.find(key) or self._memory.find(key)
        return self.entry(job) if job else self._runner.remembered.get(key)

    def wanted(self, entry: Entry) -> bool:
        """Has it not been removed, while it waited to run?"""
        return entry.origin != "store" or (
            self._mirror is not None and entry.key in self._mirror.entries
        )

    def settled(self, entry: Entry, result: Settlement) -> None:
        """A fire of this entry is through here."""
        definition = self._mirror.by_key(entry.key) if self._mirror else None
        if result.over and definition and definition.fire_time is not None:
            self._over.add(entry.key)

    def _held(self, definition: Definition, trigger: Trigger) -> ScheduledJob:
        check_key(definition.key)
        job = self._scheduled(
            definition.id, find(definition.job), trigger, definition.kwargs, "default"
        )
        if definition.paused:
            modify(job, next_run_time=None)
        return job

    def _scheduled(
        self, id: str, job: Job, trigger: Trigger, kwargs: Mapping[str, Any], store: str
    ) -> ScheduledJob:
        due = Due(trigger)
        now = self.now()
        scheduled = new_job(
            self,
            id=id,
            name=job.name,
            func=job,
            args=(),
            kwargs={**job.kwargs, **kwargs},
            trigger=due,
            executor=job.executor or "default",
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            next_run_time=trigger.next(now) if store == "declared" else due.first(now),
        )
        scheduled._jobstore_alias = store
        return scheduled
