"""The guide's architecture, its calls repaired: a shared job store, and a lock around each job."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

_LOCK_SECONDS = 20
_EFFECT = text(
    "INSERT INTO chaos_effects (what, name, fire_time, attempt, replica, at)"
    " VALUES (:what, :name, :fire_time, 1, :replica, :at)"
)
_engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")
)
_redis = make_url(os.environ["LOCK_URL"])


async def work(name: str, step: int, offset: int, before: float) -> None:
    due = (int(time.time()) - offset) // step * step + offset
    async with Redis.from_url(os.environ["LOCK_URL"]) as redis:
        if not await redis.set(f"job_lock:{name}", "locked", nx=True, ex=_LOCK_SECONDS):
            return
        try:
            await _note("began", name, due)
            await asyncio.sleep(before)
            await _note("effect", name, due)
        finally:
            await redis.delete(f"job_lock:{name}")


async def _note(what: str, name: str, due: int) -> None:
    row = {"what": what, "name": name, "fire_time": due * 1_000_000}
    more = {"replica": os.environ["REPLICA"], "at": time.time_ns() // 1000}
    async with _engine.begin() as connection:
        await connection.execute(_EFFECT, row | more)


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    store = RedisJobStore(host=_redis.host, port=_redis.port)
    scheduler = AsyncIOScheduler(timezone="UTC", jobstores={"default": store})
    same = {"replace_existing": True, "misfire_grace_time": None}
    for name, second, arguments in (
        ("fast", "*", (1, 0, 0.1)),
        ("slow", "2/5", (5, 2, 1.0)),
        ("heavy", "*/5", (5, 0, 1.0)),
    ):
        scheduler.add_job(work, "cron", second=second, id=name, args=[name, *arguments], **same)
    scheduler.start()
    yield
    scheduler.shutdown()


app = FastAPI(lifespan=_lifespan)


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}
