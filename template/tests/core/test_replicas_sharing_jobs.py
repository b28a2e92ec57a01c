"""Jobs added on one replica are all replicas' jobs."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from apscheduler.jobstores.base import JobLookupError

from app.core.scheduling import Job, interval, replica
from app.core.scheduling.cursors import Cursors
from app.core.stores import DefinitionChanged
from app.core.stores.protocol import Changes
from tests.core.fixtures import Scheduling
from tests.core.test_store_shared import held, note, passes
from tests.core.waiting import until

pytestmark = pytest.mark.anyio
__all__ = ["note"]
POLL = replica.POLL  # not that of the tests


async def test_each_replica_asks_for_changes_within_each_second(
    scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert POLL < 1
    async with scheduling() as service:
        definitions, asked = service.definitions, list[float]()
        assert definitions
        changes = definitions.changes

        def ask(*arguments: int) -> Awaitable[Changes]:
            asked.append(time.monotonic())
            return changes(*arguments)

        monkeypatch.setattr(definitions, "changes", ask)
        await until(lambda: asyncio.sleep(0, len(asked) > 5))
    # A busy machine is late at times, but not each time.
    assert min(after - before for before, after in pairwise(asked)) < 4 * replica.POLL


async def none_left(cursors: Cursors) -> bool:
    return await cursors.all() == {}


async def test_a_job_that_is_removed_while_others_begin_its_cursor_leaves_none(
    scheduling: Scheduling, note: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scheduling() as first, scheduling() as second:
        cursors = second.scheduler._cursors
        register, read, removed = cursors.register, asyncio.Event(), asyncio.Event()
        begun = list[str]()

        async def begin(fingerprints: Mapping[str, str]) -> None:
            read.set()
            await removed.wait()
            await register(fingerprints)
            begun.extend(fingerprints)

        monkeypatch.setattr(cursors, "register", begin)
        await first.scheduler.add_job_async(note, "interval", hours=1, id="hourly", args=["x"])
        await asyncio.wait_for(read.wait(), 30)
        await first.scheduler.remove_job_async("hourly")
        removed.set()
        await until(lambda: asyncio.sleep(0, begun))
        await until(lambda: none_left(cursors))


async def test_a_job_that_another_version_reads_is_paused_by_this_one(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        scheduler, definitions = service.scheduler, service.definitions
        assert definitions
        await scheduler.add_job_async(note, "interval", hours=1, id="hourly", args=["x"])
        definition = await scheduler._shared.get("hourly")
        await definitions.change(dataclasses.replace(definition, trigger={"type": "lunar"}))
        assert await scheduler.pause_job_async("hourly") is None
        assert (await scheduler._shared.get("hourly")).paused
        assert "hourly" in scheduler.orphans


async def test_a_cursor_that_somebody_deleted_is_begun_anew(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        cursors = service.scheduler._cursors
        await service.scheduler.add_job_async(note, "interval", hours=1, id="hourly", args=["x"])
        (key,) = await until(cursors.all)
        await cursors.forget(key)
        assert list(await until(cursors.all)) == [key]


async def test_what_was_removed_while_the_store_was_away_leaves_no_cursor(
    scheduling: Scheduling, note: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than removals are told."""
    async with scheduling() as service:
        scheduler, cursors = service.scheduler, service.scheduler._cursors
        mirror = scheduler._mirror
        assert mirror
        definitions, changes = mirror.definitions, mirror.definitions.changes
        await scheduler.add_job_async(note, "interval", hours=1, id="hourly", args=["x"])
        (key,) = await until(cursors.all)

        async def away(*arguments: int) -> Changes:
            raise OSError("the job store is away")

        monkeypatch.setattr(definitions, "changes", away)
        await until(lambda: asyncio.sleep(0, scheduler.store_error))
        # What another replica does, and this one does not hear of.
        held = await scheduler._shared.get("hourly")
        await definitions.change(dataclasses.replace(held, removed=True))
        await cursors.forget(key)
        await passes(service, 2)
        assert await cursors.all() == {}, "begun once more, of a job that may be gone"
        await cursors.register({key: interval(hours=1).fingerprint})
        mirror._read_at -= 6 * 60_000_000
        monkeypatch.setattr(definitions, "changes", changes)
        await until(lambda: none_left(cursors))


async def test_a_change_on_one_replica_acts_on_all(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    async with scheduling() as first, scheduling() as second:

        async def there(condition: Callable[[], object]) -> None:
            await until(lambda: asyncio.sleep(0, condition()))

        added = await first.scheduler.add_job_async(
            note, "interval", hours=1, id="hourly", args=[str(tmp_path / "notes")]
        )
        assert added.id == "hourly"
        await there(lambda: held(second, "hourly"))
        await second.scheduler.pause_job_async("hourly")
        await there(lambda: held(first, "hourly").next_run_time is None)
        resumed = await asyncio.to_thread(first.scheduler.resume_job, "hourly")
        assert resumed.next_run_time
        await first.scheduler.modify_job_async("hourly", kwargs={"file": "elsewhere"})
        await there(lambda: held(second, "hourly").kwargs == {"file": "elsewhere"})
        await second.scheduler.reschedule_job_async("hourly", trigger="cron", hour=4)
        await there(lambda: "0 4" in str(held(first, "hourly").trigger))
        with pytest.raises(DefinitionChanged, match="replace_existing=True"):
            await second.scheduler.add_job_async(note, id="hourly", kwargs={"file": "x"})
        await second.scheduler.add_job_async(
            note, "interval", hours=2, id="hourly", kwargs={"file": "x"}, replace_existing=True
        )
        await there(lambda: "7200" in str(held(first, "hourly").trigger))
        await first.scheduler.remove_job_async("hourly")
        await there(lambda: held(second, "hourly") is None)
        with pytest.raises(JobLookupError):
            await second.scheduler.remove_job_async("hourly")
