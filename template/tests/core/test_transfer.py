"""Jobs added at run time are taken to another store."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core import wiring
from app.core.database import Database
from app.core.scheduling import Job, cron, date, interval
from app.core.scheduling.triggers import only_fire_time
from app.core.stores import Definition, DefinitionStore
from app.core.transfer import Refused, export_jobs, import_jobs, main, new_file, read_jobs
from app.settings import Settings
from tests.core.fixtures import Scheduling, environment, servers
from tests.core.waiting import outcomes

pytestmark = pytest.mark.anyio
MakeSettings = Callable[..., Settings]


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[DefinitionStore]:
    database = Database(settings, wiring.database.DIALECT)
    store = wiring.store.definitions(settings, database)
    assert store is not None
    yield store
    await store.close()
    await database.close()


async def value(store: DefinitionStore, id: str, name: str) -> object:
    found = await store.get(id)
    assert found is not None
    return getattr(found, name)


def lines(file: Path) -> list[dict[str, object]]:
    return sorted(map(json.loads, file.read_text("utf-8").splitlines()), key=lambda it: it["id"])


Command = Callable[[str, Path, Settings], Awaitable[str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What `python -m app.core.transfer` says, with these settings in the environment."""

    async def command(direction: str, file: Path, settings: Settings) -> str:
        for name, value in environment(settings).items():
            monkeypatch.setenv(name, value)
        try:
            await asyncio.to_thread(main, direction, str(file))
        except SystemExit as end:
            return f"exit: {end}"
        return capsys.readouterr().out.strip()

    return command


async def test_jobs_go_from_one_store_to_another_by_the_commands(
    command: Command, make_settings: MakeSettings, tmp_path: Path
) -> None:
    here, there = make_settings(), make_settings()
    at = datetime.now(UTC) + timedelta(days=400)
    whom = {"whom": "Ünïcode \n \u2028 \U0001f600", "deep": {"list": [1, 2.5, None, True]}}
    kept = Definition("hourly", "a.job", whom, interval(hours=1, offset=7).to_json())
    paused = Definition("paused", "a.job", {}, cron("0 2 * * 1", "Europe/Berlin").to_json())
    once = Definition("once", "a.job", {}, date(at).to_json(), only_fire_time(date(at)))
    removed = Definition("removed", "a.job", {}, interval(hours=1).to_json())
    async with store_of(here) as store:
        for definition in (kept, replace(paused, paused=True), once):
            await store.add(definition, replace=False)
        await store.change(replace(await store.add(removed, replace=False), removed=True))
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert await command("export", first, here) == f"3 jobs written to {first}"
    assert first.stat().st_mode & 0o777 == 0o600
    assert await command("import", first, there) == "3 jobs added, 0 were there already"
    assert await command("import", first, there) == "0 jobs added, 3 were there already"
    async with store_of(there) as store:
        with new_file(second) as file:
            assert await export_jobs(store, file) == 3
        assert [
            await value(store, "once", "fire_time"),
            await value(store, "paused", "paused"),
        ] == [
            once.fire_time,
            True,
        ]
    assert lines(first) == lines(second)
    assert [line["id"] for line in lines(first)] == ["hourly", "once", "paused"]
    assert lines(first)[0]["kwargs"] == whom


async def test_what_was_imported_runs(
    scheduling: Scheduling,
    declare: Callable[..., Job],
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    async def note() -> None: ...

    job = declare(note, executor="asyncio")
    due = date(datetime.now(UTC))
    file = tmp_path / "jobs.jsonl"
    async with store_of(make_settings()) as store:
        definition = Definition("once", job.id, {}, due.to_json(), only_fire_time(due))
        await store.add(definition, replace=False)
        with new_file(file) as lines:
            await export_jobs(store, lines)
    async with scheduling() as service:
        assert service.definitions is not None
        assert await import_jobs(service.definitions, read_jobs(file)) == (1, 0)
        assert await outcomes(service.database, "once:") == ["succeeded"]


async def test_another_job_of_that_id_is_left_as_it_is_and_named(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    mine = Definition("hourly", "a.job", {"whose": "mine"}, interval(hours=1).to_json())
    async with store_of(make_settings()) as store:
        await store.add(replace(mine, kwargs={"whose": "other"}), replace=False)
        await store.add(replace(mine, id="new"), replace=False)
        with new_file(file) as lines:
            await export_jobs(store, lines)
    async with store_of(make_settings()) as store:
        await store.add(mine, replace=False)
        with pytest.raises(Refused, match=r"1 added; but 'hourly' is another job here"):
            await import_jobs(store, read_jobs(file))
        assert await value(store, "hourly", "kwargs") == {"whose": "mine"}
        assert await store.get("new")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (b"\n{", "line 2: .*nothing was added"),
        (b"\n[]", "line 2: it is not an object with id, job, kwargs, trigger, paused"),
        (b"\n\xff", "line 2: .*nothing was added"),
        (b"\n" + b"[" * 100_000, "line 2: .*nothing was added"),
        ({"paused": 1}, "line 2: paused=1 is not a bool"),
        ({"kwargs": []}, r"line 2: kwargs=\[\] is not a dict"),
        ({"trigger": {"type": "lunar"}}, "line 2: not a trigger"),
        ({"id": "x" * 300}, "line 2: id and generation: at most"),
        ({"more": 1}, "line 2: it is not an object with"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_file_that_is_not_an_export_adds_nothing(
    command: Command,
    settings: Settings,
    tmp_path: Path,
    change: bytes | dict[str, object],
    says: str,
) -> None:
    line = {"id": "a", "job": "j", "kwargs": {}, "paused": False}
    line["trigger"] = interval(hours=1).to_json()
    more = change if isinstance(change, bytes) else f"\n{json.dumps(line | change)}".encode()
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(json.dumps(line).encode() + more)
    assert re.search(f"^exit: .*{says}", await command("import", file, settings))
    async with store_of(settings) as store:
        assert await store.get("a") is None


async def test_what_cannot_be_moved_is_said_and_nothing_is_left_or_lost(
    command: Command, make_settings: MakeSettings, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    assert "No such file or directory; name what" in await command("import", file, settings)
    file.write_text("another export")
    assert "File exists; name one" in await command("export", file, settings)
    assert file.read_text() == "another export"
    file.unlink()
    behind = make_settings(database_url=servers.empty(tmp_path))
    assert "`make migrate` first" in await command("export", file, behind)
    away = make_settings(database_url=servers.unreachable(tmp_path))
    assert "exit: OperationalError" in await command("export", file, away)
    assert not file.exists()
