"""Jobs added while the service runs: kept as definitions, for all replicas."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from apscheduler.jobstores.base import JobLookupError
from fastapi import Request
from sqlalchemy import Engine, event

from app.core import wiring
from app.core.database import Database
from app.core.health import ready
from app.core.scheduling import Job, audit, date, interval, mirror
from app.core.scheduling.cursors import Cursors
from app.core.service import Service
from app.core.stores import Definition, DefinitionChanged, DefinitionStore
from app.settings import Settings
from tests.core import sample_jobs
from tests.core.fixtures import Scheduling
from tests.core.waiting import far_off, outcomes, runs, until, without_slots

pytestmark = pytest.mark.anyio
Declare = Callable[..., Job]


def held(service: Service, id: str) -> Any:
    """The job as the replica's memory has it."""
    return service.scheduler.get_job(id)


async def ids(service: Service) -> list[str]:
    return sorted([job.id async for job in service.scheduler.get_jobs_async()])


@pytest.fixture
def note(declare: Declare) -> Job:
    async def note(file: str) -> None:
        with Path(file).open("a") as notes:
            notes.write("x")

    return declare(note, executor="asyncio")


async def test_a_one_off_job_survives_a_restart_runs_once_and_is_gone(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    async with scheduling() as service:
        service.runner.executors["asyncio"].slots = 0
        job = await service.scheduler.add_job_async(
            note, "date", run_date=datetime.now(UTC), kwargs={"file": str(file)}
        )
    assert not file.exists()
    async with scheduling() as first:
        assert await outcomes(first.database, job.id) == ["succeeded"]

        async def gone() -> bool:
            return await ids(first) == []

        await until(gone)
        await until(lambda: asyncio.sleep(0, held(first, job.id) is None))
    assert file.read_text() == "x"


async def test_a_reading_from_before_a_removal_brings_nothing_back(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        mirror = service.scheduler._mirror
        assert mirror is not None
        async with service.scheduler._one_poll:  # the refresh that is under way is ours
            add = service.scheduler.add_job_async
            await add(note, "interval", hours=1, id="hourly", args=["x"])
            before = await mirror.definitions.changes(0, 0, 0)
            await service.scheduler.remove_job_async("hourly")
            for definition in before.definitions:
                mirror.apply(definition)
            assert held(service, "hourly") is None
        await service.scheduler.add_job_async(note, "interval", hours=2, id="hourly", args=["x"])
        assert "7200" in str(held(service, "hourly").trigger)


async def test_a_job_is_operated_by_id(scheduling: Scheduling, note: Job) -> None:
    async with scheduling() as service:
        scheduler = service.scheduler
        await scheduler.add_job_async(note, "interval", hours=1, id="hourly", args=["x"])
        assert (await scheduler.pause_job_async("hourly")).next_run_time is None
        assert (await asyncio.to_thread(scheduler.resume_job, "hourly")).next_run_time
        await scheduler.modify_job_async("hourly", kwargs={"file": "elsewhere"})
        assert held(service, "hourly").kwargs == {"file": "elsewhere"}
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            await scheduler.modify_job_async("hourly", kwargs={"file": "x", "nonsense": 1})
        with pytest.raises(TypeError, match=r"until=\.\.\.\) is for declared jobs"):
            await scheduler.pause_job_async("hourly", until=datetime.now(UTC))
        assert held(service, "hourly").kwargs == {"file": "elsewhere"}
        assert held(service, "hourly").next_run_time
        await scheduler.reschedule_job_async("hourly", trigger="cron", hour=4)
        assert "0 4" in str(held(service, "hourly").trigger)
        with pytest.raises(DefinitionChanged, match="replace_existing=True"):
            await scheduler.add_job_async(note, id="hourly", kwargs={"file": "x"})
        await scheduler.add_job_async(
            note, "interval", hours=2, id="hourly", kwargs={"file": "x"}, replace_existing=True
        )
        assert "7200" in str(held(service, "hourly").trigger)
        await scheduler.remove_job_async("hourly")
        assert held(service, "hourly") is None
        with pytest.raises(JobLookupError):
            await scheduler.remove_job_async("hourly")


async def test_a_one_off_job_due_later_is_read_when_it_comes_near(
    scheduling: Scheduling, note: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left in the store at first, since it is too far ahead."""
    monkeypatch.setattr(mirror, "AHEAD", 0)
    monkeypatch.setattr(mirror, "_STEP", 50_000)
    async with scheduling() as service:
        due = datetime.now(UTC) + timedelta(seconds=0.3)
        job = await service.scheduler.add_job_async(
            note, "date", run_date=due, kwargs={"file": str(tmp_path / "notes")}
        )
        near = datetime.now(UTC) > due - timedelta(seconds=0.05)
        assert held(service, job.id) is None or near
        assert await outcomes(service.database, job.id) == ["succeeded"]


async def test_a_job_that_was_removed_while_it_waited_does_not_run(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    async with scheduling() as service:
        service.runner.executors["asyncio"].slots = 0
        job = await service.scheduler.add_job_async(note, kwargs={"file": str(tmp_path / "n")})
        await until(lambda: asyncio.sleep(0, service.runner._waiting))
        await service.scheduler.remove_job_async(job.id)
        service.runner.executors["asyncio"].slots = 100
        service.runner._wake.set()
        await until(lambda: asyncio.sleep(0, not service.runner._waiting))
        assert await runs(service.database) == []


async def test_two_reminders_at_one_instant_are_two_and_an_id_used_again_runs_again(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    due = datetime.now(UTC)
    async with scheduling() as service:
        for id in ("one", "two", "one"):
            await service.scheduler.add_job_async(
                note,
                date(due),
                id=id,
                kwargs={"file": str(file)},
                replace_existing=True,
            )
            await outcomes(service.database, f"{id}:", 1)
            await until(lambda: asyncio.sleep(0, held(service, "one") is None))
        await until(lambda: asyncio.sleep(0, file.read_text() == "xxx"))
        assert len(await runs(service.database)) == 3


async def test_what_a_store_cannot_keep_is_refused_naming_the_declared_form(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        mine = sample_jobs.Service("file")
        with pytest.raises(TypeError, match=r"is not a declared job.*with @job\(\) in app/jobs/"):
            await add(mine.run_public_contract_aggregation_job, "interval", minutes=5)
        with pytest.raises(TypeError, match="must be JSON values"):
            await add(note, args=[service.settings])
        with pytest.raises(TypeError, match="missing a required argument: 'file'"):
            await add(note)
        with pytest.raises(TypeError, match="its declaration's"):
            await add(note, kwargs={"file": "x"}, executor="threadpool")
        with pytest.raises(RuntimeError, match=r"await scheduler\.add_job_async"):
            service.scheduler.add_job(note, kwargs={"file": "x"})
        with pytest.raises(TypeError, match="cannot be modified"):
            await service.scheduler.modify_job_async("x", name="y")


async def test_a_thread_adds_a_job_with_the_plain_call(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    file = str(tmp_path / "notes")
    async with scheduling() as service:
        add = service.scheduler.add_job
        job = await asyncio.to_thread(lambda: add(note, kwargs={"file": file}))
        assert await outcomes(service.database, job.id) == ["succeeded"]


async def passes(service: Service, count: int) -> None:
    """Let the replica look for what is due, and for changes, so often."""

    async def moved_on() -> bool:
        now = service.scheduler.last_pass, service.scheduler.last_poll
        return now[0] != last[0] and now[1] != last[1]

    for _ in range(count):
        last = service.scheduler.last_pass, service.scheduler.last_poll
        service.scheduler.wakeup()
        await until(moved_on)


async def test_a_pass_writes_nothing_into_the_database(
    scheduling: Scheduling, note: Job, tmp_path: Path
) -> None:
    """And those with fires of its jobs write to the ledger, not to the store."""
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, far_off(), id="job", kwargs={"file": "x"})
        await passes(service, 2)
        said: list[str] = []

        def hear(_: Any, __: Any, statement: str, *more: Any) -> None:
            said.append(statement)

        event.listen(Engine, "before_cursor_execute", hear)
        try:
            await passes(service, 3)
            quiet, written = list(said), "INSERT|UPDATE|DELETE"
            often = {"file": str(tmp_path / "notes")}
            await add(note, "interval", seconds=0.1, id="often", kwargs=often)
            said.clear()
            await outcomes(service.database, "often:", 3)
        finally:
            event.remove(Engine, "before_cursor_execute", hear)
    assert quiet
    assert [each for each in quiet if re.search(written, each)] == []
    changes = [each for each in said if re.search(written, each)]
    assert changes
    assert [each for each in changes if "job_definitions" in each] == []


async def test_what_this_version_cannot_read_is_counted_where_readiness_is_told(
    settings: Settings, scheduling: Scheduling
) -> None:
    async with scheduling() as service:
        assert service.definitions
        other = Definition("other", "no job of this version", {}, interval(hours=1).to_json())
        await service.definitions.add(other, replace=False)
        await until(lambda: asyncio.sleep(0, service.scheduler.orphans))
        state = SimpleNamespace(service=service, database=service.database, settings=settings)
        request = SimpleNamespace(app=SimpleNamespace(state=state))

        async def told() -> Any:
            answer = await ready(cast("Request", request))
            return answer if answer.status_code == 200 else None

        response = await until(told)
    assert json.loads(bytes(response.body))["orphans"] == 1


async def test_a_paused_job_with_a_schedule_that_this_version_cannot_read_is_named_once(
    scheduling: Scheduling, settings: Settings, note: Job, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling(settings=settings.model_copy(update={"lease_seconds": 1})) as service:
        cursors = Cursors(service.database, "")
        await service.scheduler.add_job_async(note, far_off(), id="far", kwargs={"file": ""})
        await until(cursors.all)
        await service.scheduler.pause_job_async("far")
        (key,) = await cursors.all()
        await cursors.reschedule(key, '{"type": "lunar"}')
        told = f"{key}: what it owes cannot be told"
        await until(lambda: asyncio.sleep(0, told in caplog.text))
        await asyncio.sleep(0.5)
        assert caplog.text.count(told) == 1


async def test_what_is_done_to_a_job_of_the_store_leaves_no_gaps(
    scheduling: Scheduling, settings: Settings, note: Job, tmp_path: Path
) -> None:
    brief = settings.model_copy(update={"lease_seconds": 0.5})
    file = {"file": str(tmp_path / "notes")}
    async with scheduling(settings=brief) as service:
        scheduler, database = service.scheduler, service.database

        async def complete() -> bool:
            found = (await audit(database)).values()  # of nothing before the cursor has begun
            return any(job.expected for job in found) and not any(job.gaps for job in found)

        await scheduler.add_job_async(note, "interval", seconds=0.1, id="often", kwargs=file)
        await outcomes(database, "often:", 3)
        await until(complete)
        async with without_slots(service):  # what is due by then will not run any more
            await scheduler.pause_job_async("often")
        before = await audit(database)
        await asyncio.sleep(0.5)
        await until(complete)
        assert [job.expected for job in (await audit(database)).values()] <= [
            job.expected + 3 for job in before.values()
        ]
        await scheduler.resume_job_async("often")
        await outcomes(database, "often:", len(await runs(database, "often:")) + 2)
        await until(complete)
        await scheduler.reschedule_job_async(
            "often", trigger="date", run_date=datetime.now(UTC) + timedelta(hours=1)
        )

        async def forgotten() -> bool:
            return await audit(database) == {}

        await until(forgotten)
        await scheduler.reschedule_job_async("often", trigger="interval", seconds=0.1)
        await outcomes(database, "often:", len(await runs(database, "often:")) + 2)
        await until(complete)


async def test_of_many_who_change_a_job_at_once_one_wins(
    settings: Settings, database: Database
) -> None:
    stores = [wiring.store.definitions(settings, database) for _ in range(4)]

    async def one_of(writes: Callable[[DefinitionStore, int], Awaitable[Definition]]) -> Definition:
        answers = await asyncio.gather(
            *(writes(store, n) for n in range(5) for store in stores if store),
            return_exceptions=True,
        )
        lost = [answer for answer in answers if isinstance(answer, DefinitionChanged)]
        won = [answer for answer in answers if isinstance(answer, Definition)]
        assert (len(won), len(lost)) == (1, 19), answers
        assert stores[0]
        assert await stores[0].get("job") == won[0]
        return won[0]

    new = Definition("job", "note", {}, interval(hours=1).to_json())
    added = await one_of(lambda store, n: store.add(replace(new, kwargs={"n": n}), replace=False))
    await one_of(lambda store, n: store.change(replace(added, kwargs={"n": -n})))
    for store in stores:
        assert store
        await store.close()


async def test_a_one_off_job_costs_memory_only_when_it_comes_near(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        far = datetime.now(UTC) + timedelta(days=30)
        job = await service.scheduler.add_job_async(
            note, "date", run_date=far, kwargs={"file": "x"}
        )
        assert held(service, job.id) is None
        assert await ids(service) == [job.id]
