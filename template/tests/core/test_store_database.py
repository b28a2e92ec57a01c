"""Definitions in the database: what only they can show."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.core.database import Database
from app.core.scheduling import Job
from app.core.schema import job_counters, job_definitions
from app.core.stores import DefinitionChanged, UnreadableDefinition
from tests.core.fixtures import Scheduling
from tests.core.forgeries import forgeries, none_runs
from tests.core.test_store_shared import held, ids, note
from tests.core.waiting import until

pytestmark = pytest.mark.anyio
__all__ = ["note"]
HOURLY = '{"type": "interval", "step": 3600000000, "offset": 0}'


async def test_what_was_removed_is_forgotten_at_last(scheduling: Scheduling, note: Job) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="gone", args=["x"])
        await service.scheduler.remove_job_async("gone")
        store = service.scheduler._mirror
        assert store
        await store.definitions.purge(1)
        async with service.database.reading() as connection:
            assert (await connection.scalars(select(job_definitions.c.id))).all() == ["gone"]
        await store.definitions.purge(10**9)
        async with service.database.reading() as connection:
            assert (await connection.scalars(select(job_definitions.c.id))).all() == []


async def test_only_json_is_stored(scheduling: Scheduling, note: Job) -> None:
    async with scheduling() as service:
        far = datetime.now(UTC) + timedelta(days=30)
        await service.scheduler.add_job_async(note, "date", run_date=far, kwargs={"file": "x"})
        async with service.database.reading() as connection:
            (row,) = (await connection.execute(select(job_definitions))).all()
        assert (row.job, row.kwargs) == ("note", '{"file": "x"}')
        assert '"type": "date"' in row.trigger


async def test_an_entry_that_cannot_be_read_is_left_alone_and_told_of(
    scheduling: Scheduling, note: Job, caplog: pytest.LogCaptureFixture
) -> None:
    forged = [
        {"id": "code", "job": "os.system", "kwargs": "{}", "trigger": '{"type": "date"}'},
        {"id": "junk", "job": "note", "kwargs": "gASV", "trigger": "not json"},
        {"id": "unknown", "job": "note", "kwargs": "{}", "trigger": '{"type": "never"}'},
        {"id": "old", "job": "note", "kwargs": '{"path": 1}', "trigger": HOURLY},
    ]
    more = {"generation": 1, "fire_time": None, "paused": False, "version": 1, "removed": False}
    async with scheduling() as service, service.database.writing() as connection:
        for row in forged:
            await connection.execute(job_definitions.insert().values(**row, **more))
    async with scheduling() as service:
        assert service.scheduler.get_jobs() == []
        assert await ids(service) == []
        async with service.database.reading() as connection:
            kept = (await connection.scalars(select(job_definitions.c.id))).all()
    assert sorted(kept) == ["code", "junk", "old", "unknown"]
    for row in forged:
        assert f"job {row['id']!r} in the job store is left alone" in caplog.text


async def test_a_change_that_this_version_cannot_read_ends_the_job_as_it_was(
    scheduling: Scheduling, note: Job, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="job", kwargs={"file": "x"})
        async with service.database.writing() as connection:
            await connection.execute(update(job_counters).values(value=99))
            await connection.execute(update(job_definitions).values(kwargs="gASV", version=99))
        await until(lambda: asyncio.sleep(0, held(service, "job") is None))
        assert service.definitions
        with pytest.raises(UnreadableDefinition, match="'job' in the job store cannot be read"):
            await service.definitions.get("job")
    assert "job 'job' in the job store is left alone" in caplog.text


async def test_of_a_thousand_forged_entries_none_runs_and_none_is_touched(
    scheduling: Scheduling, note: Job, database: Database, tmp_path: Path
) -> None:
    forged = forgeries(tmp_path / "proof")
    more = {"generation": 1, "fire_time": None, "paused": False, "version": 1, "removed": False}
    rows = [{"id": id, **forgery._asdict(), **more} for id, forgery in forged.items()]
    async with database.writing() as connection:
        await connection.execute(job_definitions.insert(), rows)
    await none_runs(scheduling, note, tmp_path / "proof", set(forged))
    async with database.reading() as connection:
        kept = (await connection.execute(select(job_definitions))).all()
    found = {row.id: row._asdict() for row in kept}
    assert [row for row in rows if found[row["id"]] != row] == []


async def test_a_change_made_elsewhere_at_the_same_time_is_not_undone(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        await service.scheduler.add_job_async(
            note, "interval", hours=1, id="job", kwargs={"file": "x"}
        )
        store = service.scheduler._mirror.definitions  # type: ignore[union-attr]
        seen = await store.get("job")
        async with service.database.writing() as connection:
            await connection.execute(update(job_definitions).values(version=99))
        assert seen
        with pytest.raises(DefinitionChanged, match="changed elsewhere"):
            await store.change(seen)
