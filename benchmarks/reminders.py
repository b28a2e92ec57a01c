"""A million one-off jobs in the store, due in a year, against none: memory, start, and lateness."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import p99, plain, ratio
from benchmarks.rendered import measure, rendered, settings, urls
from benchmarks.serving import resident, served

if TYPE_CHECKING:
    from app.core.stores import DefinitionStore
    from app.settings import Settings
    from pydantic import SecretStr

VARIANTS = (
    {"database": "sqlite"},
    {"database": "postgresql"},
    {"database": "postgresql", "job_store": "redis"},
)
ENTRIES, NEAR, REPEATS = 1_000_000, 100, 3
_JOB = """
import os
import time
from pathlib import Path

from app.core.scheduling import Run, job


@job(id="remind", executor="asyncio")
async def remind(run: Run, number: int) -> None:
    with Path(os.environ["LATE"]).open("a") as file:
        file.write(f"{time.time() - run.fire_time.timestamp()}\\n")
"""
_FILL = """
    INSERT INTO job_definitions
        (id, generation, job, kwargs, trigger, fire_time, paused, version, removed)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
    SELECT 'far-' || n, 1, 'remind', '{{"number": 1}}', '{trigger}', {due} + n, {no}, 1, {no}
    FROM numbers
"""


def reminders(work: Path) -> None:
    for folder in rendered(work, VARIANTS, f"{ENTRIES:,} one-off jobs: ", example=False):
        (folder / "app" / "jobs" / "measured.py").write_text(_JOB)
        measure("reminders", folder)


def main() -> None:
    with settings() as empty, settings() as full:
        asyncio.run(fill(full))
        weights: dict[str, list[float]] = {"empty": [], "full": []}
        starts: dict[str, list[float]] = {"empty": [], "full": []}
        late: list[float] = []
        for _ in range(REPEATS):
            for name, given in (("empty", empty), ("full", full)):
                asyncio.run(remind(given, time.time() + 8))
                weight, seconds, lags = watch(given)
                weights[name].append(weight)
                starts[name].append(seconds)
                if name == "full":
                    late.append(p99(lags) * 1e3)
        plain("memory of the service", weights["full"], "MB")
        ratio("       / with none in the store", weights["full"], weights["empty"], 1.05)
        ratio("until the first answer / with none", starts["full"], starts["empty"], 1.2)
        plain(f"{NEAR} that came due meanwhile: 99 % began within", late)


def watch(given: Settings) -> tuple[float, float, list[float]]:
    """Memory in MB, seconds to the first answer, and how late what came due began."""
    file = Path("late")
    file.unlink(missing_ok=True)
    with served(Path(), **urls(given), LATE=str(file.absolute())) as server:
        deadline = time.time() + 60
        while not file.exists() or len(file.read_text().splitlines()) < NEAR:
            assert time.time() < deadline, "what came due did not run"
            time.sleep(0.1)
        weight = resident(server.pid)
    return weight, server.seconds, list(map(float, file.read_text().split()))


async def remind(given: Settings, at: float) -> None:
    """Add what comes due, through the store itself."""
    from app.core import wiring
    from app.core.database import Database
    from app.core.scheduling import date
    from app.core.stores import Definition

    database = Database(given, wiring.database.DIALECT)
    store: DefinitionStore | None = wiring.store.definitions(given, database)
    assert store
    due = datetime.fromtimestamp(at, UTC)
    for number in range(NEAR):
        definition = Definition(
            id=f"near-{time.time_ns()}",
            job="remind",
            kwargs={"number": number},
            trigger=date(due).to_json(),
            fire_time=int(due.timestamp() * 1e6),
        )
        await store.add(definition, replace=False)
    await store.close()
    await database.close()


async def fill(given: Settings) -> None:
    from app.core import wiring
    from app.core.database import Database
    from app.core.scheduling import date
    from sqlalchemy import text

    due = datetime.now(UTC) + timedelta(days=365)
    trigger, micro = json.dumps(date(due).to_json()), int(due.timestamp() * 1e6)
    if wiring.JOB_STORE == "redis":
        await fill_redis(given, trigger, micro)
        return
    database = Database(given, wiring.database.DIALECT)
    no = "false" if wiring.DATABASE == "postgresql" else "0"
    statement = _FILL.format(count=ENTRIES, trigger=trigger, due=micro, no=no)
    async with database.writing() as connection:
        await connection.execute(text(statement.replace(":", r"\:")))
    await database.close()


async def fill_redis(given: Settings, trigger: str, due: int) -> None:
    """As the store writes them, but many in one call."""
    from app.core.redis import RedisServer
    from app.core.stores.redis import _KEYS

    url: SecretStr = given.model_dump()["job_store_url"]  # of this variant's settings only
    server = RedisServer("JOB_STORE_URL", url, given.service_name)
    stored = {"job": "remind", "kwargs": {"number": 1}, "trigger": json.loads(trigger)}
    entry = json.dumps({**stored, "fire_time": due, "paused": False, "removed": False})
    script = """
        redis.call('SET', KEYS[1], ARGV[3])
        for n = tonumber(ARGV[1]), tonumber(ARGV[1]) + 999 do
          local id = 'far-' .. n
          redis.call('HSET', KEYS[2], id, ARGV[3] .. ' 0 ' .. ARGV[2])
          redis.call('ZADD', KEYS[3], ARGV[3], id)
          redis.call('ZADD', KEYS[4], ARGV[4], id)
        end
    """
    for first in range(0, ENTRIES, 1_000):
        await server.run(script, _KEYS, first, entry, 1, due)
    await server.close()


if __name__ == "__main__":
    main()
