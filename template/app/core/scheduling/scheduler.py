"""`app.state.scheduler`: APScheduler's own interface, over jobs that all replicas share."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from apscheduler.job import Job as ScheduledJob
from apscheduler.util import undefined

from app.core.scheduling.apscheduler_ import given
from app.core.scheduling.batch import storable
from app.core.scheduling.declaration import Job, is_on_loop, undeclared
from app.core.scheduling.passes import Due
from app.core.scheduling.replica import ReplicaScheduler
from app.core.scheduling.translation import take_trigger, translate, trigger_from_json
from app.core.scheduling.triggers import Trigger

_log = logging.getLogger(__name__)
_CALL_TIMEOUT = 30.0
_LONGEST_ID = 200


class ServiceScheduler(ReplicaScheduler):
    """Jobs: declared in the code; added at run time to `default`, the chosen store; in `memory`.

    With a shared store, or a declared job, a call that changes a job waits for the database. On
    the event loop use its awaitable twin: `add_job_async` and so on. `get_jobs()` and `get_job()`
    read this replica's memory, which holds one-off jobs only when they are due within ten
    minutes; `get_jobs_async()` reads the store.
    """

    def add_job(
        self,
        func: Any,
        trigger: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        name: str | None = None,
        misfire_grace_time: Any = undefined,
        coalesce: Any = undefined,
        max_instances: Any = undefined,
        next_run_time: Any = undefined,
        jobstore: str = "default",
        executor: str = "default",
        replace_existing: bool = False,
        **trigger_args: Any,
    ) -> ScheduledJob:
        """Add a job, as in APScheduler. In a shared store: a declared job with JSON arguments.

        Raises `TypeError` for what the store cannot keep, `DefinitionChanged` or APScheduler's
        `ConflictingIdError` if the id exists, `RuntimeError` where it would hold the event loop.
        """
        options = given(
            args=args,
            kwargs=kwargs,
            id=id,
            name=name,
            misfire_grace_time=misfire_grace_time,
            coalesce=coalesce,
            max_instances=max_instances,
            next_run_time=next_run_time,
            jobstore=jobstore,
            executor=executor,
            replace_existing=replace_existing,
        )
        added: ScheduledJob = self._now(
            "add_job", self._where(options), func, trigger, **options, **trigger_args
        )
        return added

    async def add_job_async(self, func: Any, trigger: Any = None, **options: Any) -> ScheduledJob:
        """`add_job` for the event loop."""
        when = take_trigger(trigger, options, self._settings.zone)
        options = {name: value for name, value in options.items() if value is not None}
        id = options.pop("id", None) or uuid.uuid4().hex
        if len(id) > _LONGEST_ID or storable(id) != id:
            raise ValueError(f"id={id[:40]!r}...: at most {_LONGEST_ID} characters, and no NUL")
        self._runner.check_executor(options.get("executor"), f"add_job({id!r})")
        if id in self._triggers:
            raise ValueError(f"{id!r} is the id of a declared job; choose another")
        if self._where(options):
            return await self._add_shared(func, when, id, **options)
        return self._add_in_memory(func, when, id, **options)

    async def _add_shared(
        self,
        func: Any,
        when: Trigger,
        id: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        replace_existing: bool = False,
        jobstore: str = "default",
        executor: str = "default",
        name: str | None = None,
    ) -> ScheduledJob:
        if not isinstance(func, Job):
            called = getattr(func, "__qualname__", repr(func))
            raise TypeError(
                f"{called} is not a declared job, and the shared job store keeps neither code nor "
                "settings. Declare a function with @job() in app/jobs/, and add that with JSON "
                'arguments; or keep it in this process with jobstore="memory"'
            )
        if name is not None or executor != "default":
            raise TypeError(f"{func.id}: its name and executor are its declaration's, @job(...)")
        definition = await self._shared.add(func, when, id, args, kwargs, replace_existing)
        self.wakeup()
        added = self._held(definition, when)
        _log.info(
            "added", extra={"job": func.id, "entry": definition.key, "due": added.next_run_time}
        )
        return added

    def _add_in_memory(
        self, func: Any, when: Trigger, id: str, executor: str = "default", **options: Any
    ) -> ScheduledJob:
        job = func if isinstance(func, Job) else undeclared(func, id)
        options["kwargs"] = {**job.kwargs, **(options.get("kwargs") or {})}
        if isinstance(func, Job):
            options.setdefault("name", func.name)
        name = job.executor or self._default if executor == "default" else executor
        args = options.get("args") or ()
        if why := self._runner.executors[name].refuses(job, args, options["kwargs"]):
            raise TypeError(f"add_job({id!r}): {why}")
        return self.base_add_job(func, Due(when), id=id, executor=executor, **options)

    def modify_job(self, job_id: str, jobstore: str | None = None, **changes: Any) -> Any:
        """Change the `kwargs` of a shared job; of one in memory, what APScheduler lets you."""
        return self._now("modify_job", self._is_shared(job_id), job_id, jobstore, **changes)

    async def modify_job_async(
        self, job_id: str, jobstore: str | None = None, **changes: Any
    ) -> Any:
        """`modify_job` for the event loop."""
        if not self._is_shared(job_id):
            return self.base_modify_job(job_id, jobstore, **changes)
        await self._shared.modify(job_id, changes)
        return await self._changed(job_id)

    def pause_job(self, job_id: str, jobstore: str | None = None, **why: Any) -> Any:
        """Stop a job, on all replicas. For a declared job `by`, `reason` and `until` are kept."""
        return self._now("pause_job", self._is_shared(job_id), job_id, jobstore, **why)

    async def pause_job_async(self, job_id: str, jobstore: str | None = None, **why: Any) -> Any:
        """`pause_job` for the event loop."""
        if not self._is_shared(job_id):
            return self.base_pause_job(job_id, jobstore)
        await self._shared.pause(job_id, **why)
        return await self._changed(job_id)

    def resume_job(self, job_id: str, jobstore: str | None = None) -> Any:
        """Let a paused job run again. It owes nothing for the time in between."""
        return self._now("resume_job", self._is_shared(job_id), job_id, jobstore)

    async def resume_job_async(self, job_id: str, jobstore: str | None = None) -> Any:
        """`resume_job` for the event loop."""
        if not self._is_shared(job_id):
            return self.base_resume_job(job_id, jobstore)
        await self._shared.resume(job_id)
        return await self._changed(job_id)

    def reschedule_job(
        self, job_id: str, jobstore: str | None = None, trigger: Any = None, **arguments: Any
    ) -> Any:
        """Give a job another trigger; a declared one keeps it until its declaration changes."""
        shared = self._is_shared(job_id)
        return self._now("reschedule_job", shared, job_id, jobstore, trigger, **arguments)

    async def reschedule_job_async(
        self, job_id: str, jobstore: str | None = None, trigger: Any = None, **arguments: Any
    ) -> Any:
        """`reschedule_job` for the event loop."""
        when = translate(trigger, arguments, self._settings.zone)
        if not self._is_shared(job_id):
            return self.base_reschedule_job(job_id, jobstore, Due(when))
        await self._shared.reschedule(job_id, when)
        return await self._changed(job_id)

    def remove_job(self, job_id: str, jobstore: str | None = None) -> None:
        """Remove a job that was added at run time."""
        self._now("remove_job", self._is_shared(job_id), job_id, jobstore)

    async def remove_job_async(self, job_id: str, jobstore: str | None = None) -> None:
        """`remove_job` for the event loop."""
        if not self._is_shared(job_id):
            self.base_remove_job(job_id, jobstore)
        else:
            await self._shared.remove(job_id)

    async def get_jobs_async(self) -> AsyncIterator[ScheduledJob]:
        """Every job: those in this replica's memory, and the store's, read in pages."""
        for store in (self._own, self._memory, *self._not_shared):
            for job in store.every():
                yield job
        if self._mirror:
            async for definition in self._mirror.definitions.all():
                if isinstance(definition, str):
                    continue
                with suppress(Exception):  # what this version cannot read is in the log
                    yield self._held(definition, trigger_from_json(dict(definition.trigger)))

    def remove_all_jobs(self, jobstore: str | None = None) -> None:
        """Of this process's memory, `jobstore="memory"`, and of no other store."""
        if jobstore != "memory":
            raise TypeError('remove_all_jobs(): jobstore="memory" only; else use remove_job()')
        self._memory.clear()

    def _now(self, name: str, shared: bool, /, *args: Any, **kwargs: Any) -> Any:
        """Run the awaitable twin to its end: at once in memory, else from another thread."""
        if shared and is_on_loop():
            raise RuntimeError(
                f"{name}() would hold the event loop while the database answers; "
                f"use `await scheduler.{name}_async(...)`"
            )
        twin: Coroutine[Any, Any, Any] = getattr(self, f"{name}_async")(*args, **kwargs)
        if shared:
            if self._eventloop is None:
                twin.close()
                raise RuntimeError(f"{name}(): the scheduler has not been started")
            return asyncio.run_coroutine_threadsafe(twin, self._eventloop).result(_CALL_TIMEOUT)
        try:
            twin.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError(f"{name}_async waited for something in memory")

    def _where(self, options: Mapping[str, Any]) -> bool:
        """Does a job added with these options go to a shared store?"""
        return self._mirror is not None and options.get("jobstore", "default") == "default"

    def _is_shared(self, job_id: str) -> bool:
        in_memory = self._memory.find(job_id) is not None
        return job_id in self._triggers or (self._mirror is not None and not in_memory)

    async def _changed(self, job_id: str) -> Any:
        """Let the change act here at once; the other replicas see it within a second."""
        await self._poll()
        self.wakeup()
        return self.get_job(job_id)
