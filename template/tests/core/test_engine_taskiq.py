"""taskiq: messages go through a broker of its own, and nothing piles up there."""

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from redis.asyncio import Redis
from taskiq import AsyncBroker
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from app import broker
from app.core import wiring
from app.core.app import create_app
from app.core.database import Database
from app.core.executors import taskiq_
from app.core.scheduling.queue import Queue
from app.settings import Settings
from tests.core.cable import Cable
from tests.core.engine_fixtures import (
    BROKER,
    Send,
    Worker,
    at,
    engines,
    line,
    message,
    send,
    sender,
    serving,
    worker,
)
from tests.core.fixtures import Scheduling, time_goes_by
from tests.core.test_worker import notes, working
from tests.core.waiting import outcomes, runs, until
from tests.core.working import brief

__all__ = ["line", "notes", "send", "sender", "worker"]
pytestmark = pytest.mark.anyio
STREAM = "{" + wiring.SERVICE_NAME + "}:runs"


@pytest.fixture
def as_rendered() -> None:
    """app/broker.py is its owner's: of another broker what follows is not said."""
    if not isinstance(broker.broker("redis://127.0.0.1", "any"), RedisStreamBroker):
        pytest.skip("app/broker.py has another broker")


@pytest.fixture
async def server(as_rendered: None, settings: Settings) -> AsyncIterator[Any]:
    """Another client of the broker's."""
    async with Redis.from_url(getattr(settings, BROKER).get_secret_value()) as client:
        yield client


async def unacknowledged(server: Any, count: int) -> None:
    async def so() -> bool:
        return bool((await server.xpending(STREAM, STREAM))["pending"] == count)

    await until(so)


async def test_what_is_handled_is_acknowledged_and_workers_leave_no_names(
    settings: Settings, send: Send, worker: Worker, server: Any
) -> None:
    worker.go.clear()
    async with serving(settings, worker.handle):
        await send(message(), message())
        await worker.has(2)
        await unacknowledged(server, 2)
        worker.go.set()
        await unacknowledged(server, 0)
    async with serving(settings, worker.handle):
        await send(message())
        await worker.has(3)
    assert len(await server.xinfo_consumers(STREAM, STREAM)) == 1


@pytest.mark.parametrize("lease_seconds", [600])
async def test_the_run_of_a_worker_that_was_frozen_is_not_sent_to_that_one_alone(
    scheduling: Scheduling, settings: Settings, notes: Path, server: Any
) -> None:
    """It stands first in line: it had asked for the next message before it was frozen."""

    async def swallow() -> None:
        await server.xreadgroup(STREAM, "frozen", {STREAM: ">"}, count=1, block=60_000)

    async with scheduling() as here:
        id = str((await here.scheduler.add_job_async(brief, jobstore="memory")).id)
        (row,) = await until(lambda: runs(here.database, id))
        await until(lambda: server.exists(STREAM))
        await swallow()
        assert await Queue(here.ledger).start(row.job, row.fire_time)
        frozen = asyncio.create_task(swallow())
        await until(lambda: blocked(server))
        async with working(settings):
            time_goes_by(settings, here.database, 700)
            assert await outcomes(here.database, id) == ["succeeded"]
        await frozen


async def blocked(server: Any) -> int:
    return int((await server.info("clients"))["blocked_clients"])


async def test_every_key_is_the_services(
    settings: Settings, send: Send, worker: Worker, server: Any
) -> None:
    async with serving(settings, worker.handle):
        await send(message())
        await worker.has(1)
    assert all(wiring.SERVICE_NAME in key.decode() for key in await server.keys())


async def test_the_stream_has_an_end(
    settings: Settings, send: Send, worker: Worker, server: Any
) -> None:
    async with server.pipeline() as pipeline:
        for _ in range(12_000):
            pipeline.xadd(STREAM, {"data": "old"})
        await pipeline.execute()
    await send(message())
    assert await server.xlen(STREAM) < 10_500


async def test_what_a_killed_worker_had_is_handed_over_again_and_forgotten(
    settings: Settings, send: Send, worker: Worker, server: Any
) -> None:
    await send(message("killed"))
    [[_, [[id, _]]]] = await server.xreadgroup(STREAM, "killed", {STREAM: ">"})
    an_hour = 3_600_000
    await server.xclaim(STREAM, STREAM, "killed", 0, [id], idle=an_hour)
    async with serving(settings, worker.handle):
        await send(message("later"))
        await worker.has(2)
        await unacknowledged(server, 0)
    assert {each["key"] for each in worker.handled} == {"killed", "later"}


async def test_a_broker_that_lost_its_memory_is_served_on(
    settings: Settings, send: Send, worker: Worker, server: Any
) -> None:
    async with serving(settings, worker.handle):
        await send(message())
        await worker.has(1)
        await server.flushdb()
        await send(message())
        await worker.has(2)


async def test_nothing_is_unpickled_and_what_is_no_message_stops_nobody(
    settings: Settings, send: Send, worker: Worker, server: Any, tmp_path: Path
) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
            return (Path.touch, (tmp_path / "unpickled",))

    await server.xadd(STREAM, {"data": pickle.dumps(Planted())})
    await server.xadd(STREAM, {"data": '{"task_name": "other"}'})
    async with serving(settings, worker.handle):
        await send(message())
        await worker.has(1)
        await unacknowledged(server, 0)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.usefixtures("as_rendered")
async def test_sending_to_a_broker_that_is_away_fails(settings: Settings, line: Cable) -> None:
    line.cut()
    engine = engines.engine(at(settings, line.url), Database(settings, wiring.database.DIALECT))
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="BROKER_URL"):
        await engine.open()
    with pytest.raises(ConnectionError, match="BROKER_URL"):
        await engine.committed([message()])
    assert time.monotonic() - started < 30
    line.mend()
    await engine.open()
    await engine.committed([message()])
    await engine.close()


@pytest.mark.usefixtures("as_rendered")
async def test_a_broker_is_well_until_sending_fails_and_again_when_it_answers(
    settings: Settings, line: Cable
) -> None:
    engine = engines.engine(at(settings, line.url), Database(settings, wiring.database.DIALECT))
    await engine.check()
    line.cut()
    with pytest.raises(ConnectionError, match="BROKER_URL"):
        await engine.committed([message()])
    with pytest.raises(ConnectionError, match="BROKER_URL"):
        await engine.check()
    line.mend()
    await engine.check()
    await engine.close()


@pytest.mark.usefixtures("as_rendered")
def test_a_service_whose_broker_nobody_listens_at_is_not_ready(settings: Settings) -> None:
    with TestClient(create_app(at(settings, "redis://127.0.0.1:1/0"))) as client:
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "nothing can be sent to workers: the broker of BROKER_URL" in response.text


@pytest.mark.usefixtures("as_rendered")
async def test_sending_to_a_broker_that_does_not_answer_ends_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taskiq_, "_TIMEOUT", 0.2)
    started = time.monotonic()
    async with await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1") as silent:
        port = silent.sockets[0].getsockname()[1]
        silently = at(settings, f"redis://127.0.0.1:{port}")
        engine = engines.engine(silently, Database(settings, wiring.database.DIALECT))
        with pytest.raises(ConnectionError, match="BROKER_URL"):
            await engine.open()
        with pytest.raises(ConnectionError, match="BROKER_URL"):
            await engine.committed([message()])
        assert time.monotonic() - started < 5
        await engine.close()


async def test_another_broker_is_one_line(
    settings: Settings, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(url: str, name: str) -> AsyncBroker:
        return ListQueueBroker(url, queue_name=name, max_connection_pool_size=5)

    monkeypatch.setattr(broker, "broker", other)
    engine = engines.engine(settings, Database(settings, wiring.database.DIALECT))
    async with serving(settings, worker.handle):
        await engine.committed([message()])
        await worker.has(1)
    await engine.close()


@pytest.mark.parametrize("url", ["nonsense", "amqp://host", "redis://:hush/hush@host:1"])
def test_a_wrong_address_is_explained_and_not_quoted(url: str) -> None:
    with pytest.raises(ValidationError, match=r"app/broker\.py") as error:
        taskiq_.EngineSettings(broker_url=SecretStr(url), database_url=SecretStr("unused"))
    assert "hush" not in str(error.value)
