"""Definitions in Redis or Valkey: what only they can show."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.core import wiring
from app.core.app import create_app
from app.core.database import Database
from app.core.redis import RedisServer
from app.core.scheduling import Job, interval
from app.core.stores import Definition, DefinitionChanged, UnreadableDefinition
from app.settings import Settings
from tests.core.fixtures import Declare, Scheduling, environment
from tests.core.forgeries import forgeries, none_runs
from tests.core.servers.valkey import PREFIX, cluster
from tests.core.test_store_shared import held, ids, note, passes
from tests.core.waiting import outcomes, succeeded, until

pytestmark = pytest.mark.anyio
__all__ = ["note"]
OFTEN = {"type": "interval", "step": 100_000, "offset": 0}
HOURLY = {"type": "interval", "step": 3_600_000_000, "offset": 0}
PARTS = ('{"job": ', ', "kwargs": ', ', "trigger": ', "}")
ENTRY = {"job": "note", "kwargs": {"file": "x"}, "trigger": HOURLY, "fire_time": None}


@pytest.fixture
def server(settings: Settings) -> Iterator[redis.Redis]:
    """The server behind the service's back."""
    url = environment(settings)["JOB_STORE_URL"]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


def put(server: redis.Redis, entries: Mapping[str, str | bytes]) -> None:
    """Entries as somebody else may have written them."""
    values: dict[Any, Any] = dict(entries)
    server.incr(f"{PREFIX}job-version", len(entries))
    server.hset(f"{PREFIX}jobs", mapping=values)
    server.zadd(f"{PREFIX}job-versions", {id: n for n, id in enumerate(entries, 1)})
    server.sadd(f"{PREFIX}job-recurring", *entries)


async def test_only_json_is_stored_below_one_prefix(
    scheduling: Scheduling, note: Job, server: redis.Redis
) -> None:
    async with scheduling() as service:
        far = datetime.now(UTC) + timedelta(days=30)
        job = await service.scheduler.add_job_async(
            note, "date", run_date=far, kwargs={"file": "x"}
        )
        generation, _, text = str(server.hget(f"{PREFIX}jobs", job.id)).split(" ", 2)
        assert int(generation) > 0
        assert json.loads(text)["kwargs"] == {"file": "x"}
        assert all(str(key).startswith(PREFIX) for key in server.scan_iter())


async def test_an_entry_that_cannot_be_read_is_left_alone_and_told_of(
    scheduling: Scheduling,
    settings: Settings,
    note: Job,
    server: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = {**ENTRY, "paused": False, "removed": False}
    forged: dict[str, str | bytes] = {
        "code": f"1 a {json.dumps({**whole, 'job': 'os.system'})}",
        "pickle": "1 a gASV",
        "bytes": b"1 a \xff\x80",
        "deep": "1 a " + "[" * 200_000,
        "list": "1 a [1]",
        "bare": json.dumps(whole),
        "unknown": f"1 a {json.dumps({**whole, 'trigger': {'type': 'never'}})}",
        "typed": f"1 a {json.dumps({**whole, 'fire_time': 'soon'})}",
        "old": f"1 a {json.dumps({**whole, 'surprise': 1})}",
    }
    put(server, {**forged, "good": f"1 a {json.dumps(whole)}"})
    async with scheduling() as service:
        assert await ids(service) == ["good"]
        assert held(service, "good")
    with redis.Redis.from_url(environment(settings)["JOB_STORE_URL"]) as raw:
        kept = {id: raw.hget(f"{PREFIX}jobs", id) for id in forged}
    for id, value in forged.items():
        assert kept[id] == (value if isinstance(value, bytes) else value.encode())
        assert f"job {id!r} in the job store is left alone" in caplog.text


async def test_a_change_that_this_version_cannot_read_ends_the_job_as_it_was(
    scheduling: Scheduling, note: Job, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="job", kwargs={"file": "x"})
        server.hset(f"{PREFIX}jobs", "job", "1 a gASV")
        server.zadd(f"{PREFIX}job-versions", {"job": int(server.incr(f"{PREFIX}job-version"))})
        await until(lambda: asyncio.sleep(0, held(service, "job") is None))
        assert service.definitions
        with pytest.raises(UnreadableDefinition, match="'job' in the job store cannot be read"):
            await service.definitions.get("job")
    assert "job 'job' in the job store is left alone" in caplog.text


async def test_a_pass_writes_nothing_there(
    scheduling: Scheduling, note: Job, server: redis.Redis, tmp_path: Path
) -> None:
    """With fires of its jobs, and without."""
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="job", kwargs={"file": "x"})
        often = {"file": str(tmp_path / "notes")}
        await add(note, "interval", seconds=0.2, id="often", kwargs=often)
        before = {str(key): server.dump(str(key)) for key in server.scan_iter()}
        await passes(service, 5)
        await outcomes(service.database, "often:", 3)
        assert {str(key): server.dump(str(key)) for key in server.scan_iter()} == before


async def test_a_node_of_a_cluster_is_enough(settings: Settings) -> None:
    for url in cluster():
        chosen = settings.model_copy(update={"job_store_url": SecretStr(url)})
        store = wiring.store.definitions(chosen, Database(chosen, wiring.database.DIALECT))
        assert store
        added = await store.add(Definition("job", "note", {}, HOURLY), replace=True)
        read = await store.changes(0, 0, 0)
        assert [definition.version for definition in read.definitions] == [added.version]
        changed = await store.change(replace(added, paused=True))
        assert (await store.changes(read.version, 0, 0)).definitions == [changed]
        await store.close()


async def test_of_a_thousand_forged_entries_none_runs_and_none_is_touched(
    scheduling: Scheduling, note: Job, server: redis.Redis, tmp_path: Path
) -> None:
    forged = {
        id: f"1 a {PARTS[0]}{json.dumps(job)}{PARTS[1]}{kwargs}{PARTS[2]}{trigger}{PARTS[3]}"
        for id, (job, kwargs, trigger) in forgeries(tmp_path / "proof").items()
    }
    whole = {"job": "note", "kwargs": {"file": str(tmp_path / "proof")}, "trigger": OFTEN}
    for name, value in (("job", ["os:system"]), ("fire_time", "soon"), ("function", "os:system")):
        forged[name] = f"1 a {json.dumps({**whole, name: value})}"
    # Nothing that the ledger can write down, and so nothing that can be claimed.
    forged["i" * 300] = forged["nul\0"] = f"1 a {json.dumps(whole)}"
    forged["generation"] = f"{'1' * 300} a {json.dumps(whole)}"
    put(server, forged)
    await none_runs(scheduling, note, tmp_path / "proof", set(forged))
    kept = server.hgetall(f"{PREFIX}jobs")
    assert [id for id, value in forged.items() if kept[id] != value] == []


async def test_a_change_made_elsewhere_at_the_same_time_is_not_undone(
    scheduling: Scheduling, note: Job
) -> None:
    async with scheduling() as service:
        await service.scheduler.add_job_async(
            note, "interval", hours=1, id="job", kwargs={"file": "x"}
        )
        store = service.scheduler._mirror.definitions  # type: ignore[union-attr]
        seen = await store.get("job")
        assert seen
        await store.change(seen)
        with pytest.raises(DefinitionChanged, match="changed elsewhere"):
            await store.change(seen)


async def test_what_was_removed_is_forgotten_at_last(
    scheduling: Scheduling, note: Job, server: redis.Redis
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="gone", args=["x"])
        await service.scheduler.remove_job_async("gone")
        store = service.scheduler._mirror
        assert store
        await store.definitions.purge(1)
        assert server.hkeys(f"{PREFIX}jobs") == ["gone"]
        await store.definitions.purge(2**53)
        assert not server.exists(f"{PREFIX}jobs", f"{PREFIX}job-versions")


async def test_a_store_that_lost_its_memory_is_told_of_and_goes_on(
    scheduling: Scheduling, note: Job, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="before", kwargs={"file": "x"})
        mirror = service.scheduler._mirror
        await until(lambda: asyncio.sleep(0.02, mirror and mirror._version))
        server.flushdb()
        await add(note, "interval", hours=1, id="after", kwargs={"file": "x"})
        await until(lambda: asyncio.sleep(0.02, held(service, "before") is None))
        assert "has lost what it had" in caplog.text
        await until(lambda: asyncio.sleep(0.02, held(service, "after")))  # all is read again
        assert await ids(service) == ["after"]


async def test_a_store_that_came_back_with_an_older_state_is_read_again(
    scheduling: Scheduling, note: Job, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling() as service:
        add = service.scheduler.add_job_async
        await add(note, "interval", hours=1, id="before", kwargs={"file": "x"})
        snapshot: dict[str, Any] = {str(key): server.dump(str(key)) for key in server.scan_iter()}
        await add(note, "interval", hours=1, id="after", kwargs={"file": "x"})
        mirror, version = service.scheduler._mirror, float(str(server.get(f"{PREFIX}job-version")))
        await until(lambda: asyncio.sleep(0.02, mirror and mirror._version == version))
        with server.pipeline() as restoring:
            restoring.flushdb()
            for key, value in snapshot.items():
                restoring.restore(key, 0, value)
            restoring.execute()
        await until(lambda: asyncio.sleep(0.02, held(service, "after") is None))
        assert "has lost what it had" in caplog.text
        await until(lambda: asyncio.sleep(0.02, held(service, "before")))  # all is read again
        assert await ids(service) == ["before"]


async def test_a_call_that_is_sent_twice_writes_once(
    scheduling: Scheduling, note: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server is slow, and the first answer does not arrive."""
    whole = RedisServer.run

    async def twice(self: RedisServer, *arguments: Any) -> Any:
        await whole(self, *arguments)
        return await whole(self, *arguments)

    monkeypatch.setattr(RedisServer, "run", twice)
    async with scheduling() as service:
        added = await service.scheduler.add_job_async(
            note, "interval", hours=1, id="once", kwargs={"file": "x"}
        )
        assert added.id == "once"
        assert (await service.scheduler.pause_job_async("once")).next_run_time is None


async def test_the_declared_jobs_go_on_without_the_store(
    scheduling: Scheduling, declare: Declare, settings: Settings, note: Job, tmp_path: Path
) -> None:
    file = str(tmp_path / "notes")
    often = declare(note.function, interval(seconds=0.2), executor="asyncio", kwargs={"file": file})
    gone = settings.model_copy(update={"job_store_url": SecretStr("redis://127.0.0.1:1/0")})
    async with scheduling(often, settings=gone) as service:
        await succeeded(service.database, "note")
        assert "the server of JOB_STORE_URL" in str(service.scheduler.store_error)
        assert service.starting is None


@pytest.mark.parametrize("enabled", [True, False])
def test_a_service_whose_store_is_away_is_not_ready(settings: Settings, enabled: bool) -> None:
    """Nor is one that schedules nothing: it serves the requests that add jobs."""
    gone = {"job_store_url": SecretStr("redis://127.0.0.1:1/0"), "scheduler_enabled": enabled}
    with TestClient(create_app(settings.model_copy(update=gone))) as client:
        response = client.get("/health/ready")
        assert response.status_code == 503
        checks = response.json()["checks"]
        assert checks["database"] == "ok"
        assert "does not answer: the server of JOB_STORE_URL" in checks["scheduler"]


async def test_many_jobs_are_read_in_pages(
    scheduling: Scheduling, note: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.stores.redis._PAGE", 2)
    async with scheduling() as service:
        for number in range(5):
            await service.scheduler.add_job_async(
                note, "interval", hours=1, id=f"job{number}", kwargs={"file": "x"}
            )
        assert await ids(service) == [f"job{number}" for number in range(5)]
