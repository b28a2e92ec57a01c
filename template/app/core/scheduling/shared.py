"""Changing jobs for all replicas at once: definitions in the store, cursors of declared jobs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.core.scheduling.apscheduler_ import not_found
from app.core.scheduling.cursors import Cursors
from app.core.scheduling.declaration import Job, find
from app.core.scheduling.mirror import MirrorStore
from app.core.scheduling.triggers import Trigger, microseconds, only_fire_time
from app.core.stores import Definition, DefinitionChanged, UnreadableDefinition


class SharedJobs:
    """What `ServiceScheduler` does to jobs that are not this process's own."""

    def __init__(
        self, declared: Mapping[str, Job], mirror: MirrorStore | None, cursors: Cursors
    ) -> None:
        self._declared = declared
        self._mirror = mirror
        self._cursors = cursors

    async def add(
        self,
        job: Job,
        when: Trigger,
        id: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        replace_existing: bool,
    ) -> Definition:
        """Raises `TypeError` if the arguments do not fit, `DefinitionChanged` if the id exists."""
        assert self._mirror is not None
        definition = Definition(
            id=id,
            job=job.id,
            kwargs=job.arguments(args or (), kwargs or {}),
            trigger=when.to_json(),
            fire_time=only_fire_time(when),
        )
        before = await self._stored(id) if replace_existing else None
        definition = await self._mirror.definitions.add(definition, replace=replace_existing)
        self._mirror.apply(definition)
        if before is not None:
            await self._cursors.forget(before.key)
        return definition

    async def modify(self, job_id: str, changes: Mapping[str, Any]) -> None:
        """Replace the arguments, on top of the declared ones; nothing else can be modified.

        Raises `TypeError` if they do not fit the function.
        """
        if job_id in self._declared or set(changes) != {"kwargs"}:
            raise TypeError(
                f"{job_id}: {', '.join(sorted(changes))} cannot be modified; pause or reschedule "
                "it, or change its declaration in app/jobs/"
            )
        definition = await self.get(job_id)
        kwargs = find(definition.job).arguments((), changes["kwargs"])
        await self._change(definition, kwargs=kwargs)

    async def pause(
        self, job_id: str, by: str = "", reason: str = "", until: datetime | None = None
    ) -> None:
        """Stop it on all replicas. Who and why are kept, and for a declared job until when.

        Raises `TypeError` for `until` with a job that was added at run time.
        """
        if job_id in self._declared:
            end = microseconds(until.astimezone(UTC)) if until else None
            await self._cursors.pause(job_id, by=by, reason=reason, until=end)
        elif until is not None:
            raise TypeError(
                f"pause_job({job_id!r}, until=...) is for declared jobs; pause it without, and "
                "resume it when it shall run again"
            )
        else:
            definition = await self.get(job_id)
            await self._change(definition, paused=True)
            held = self._mirror.find(job_id) if self._mirror else None
            if held and definition.fire_time is None:  # a poll under way may begin it, unpaused
                await self._cursors.register({definition.key: held.trigger.trigger.fingerprint})
            await self._cursors.pause(definition.key, by=by, reason=reason, until=None)

    async def resume(self, job_id: str) -> None:
        """Let it run again; it owes nothing for the past."""
        if job_id in self._declared:
            await self._cursors.resume(job_id)
        else:
            definition = await self.get(job_id)
            await self._cursors.resume(definition.key)
            await self._change(definition, paused=False)

    async def reschedule(self, job_id: str, when: Trigger) -> None:
        """Give it another trigger. A declared job keeps it until its declaration changes."""
        if job_id in self._declared:
            await self._cursors.reschedule(job_id, json.dumps(when.to_json()))
        else:
            definition = await self.get(job_id)
            once = only_fire_time(when)
            await self._change(definition, trigger=when.to_json(), fire_time=once)
            if once is not None:
                await self._cursors.forget(definition.key)

    async def remove(self, job_id: str) -> None:
        """Remove what was added at run time."""
        if job_id in self._declared:
            raise TypeError(f"{job_id} is declared in app/jobs/: delete it there, or pause it")
        definition = await self.get(job_id)
        await self._change(definition, removed=True)
        await self._cursors.forget(definition.key)

    async def complete(self, key: str) -> None:
        """A one-off job has its outcome: its definition goes."""
        assert self._mirror is not None
        definition = self._mirror.by_key(key)
        try:
            if definition is not None:
                await self._change(definition, removed=True)
        except DefinitionChanged:
            pass  # another replica was faster, or its id is in use again

    async def get(self, job_id: str) -> Definition:
        """The definition as the store has it. Raises APScheduler's `JobLookupError`."""
        definition = await self._stored(job_id)
        if definition is None:
            raise not_found(job_id)
        return definition

    async def _stored(self, job_id: str) -> Definition | None:
        """None also for what this version cannot read: that is another version's to change."""
        try:
            return await self._mirror.definitions.get(job_id) if self._mirror else None
        except UnreadableDefinition:
            return None

    async def _change(self, definition: Definition, **changes: Any) -> None:
        assert self._mirror is not None
        changed = await self._mirror.definitions.change(replace(definition, **changes))
        self._mirror.apply(changed)
