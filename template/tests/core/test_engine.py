"""The engine carries messages to workers: what it promises, whichever it is."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from app.core.executors.engine import Message
from app.settings import Settings
from tests.core.cable import Cable
from tests.core.engine_fixtures import (
    Send,
    Worker,
    at,
    line,
    message,
    send,
    sender,
    serving,
    worker,
)
from tests.core.fixtures import environment
from tests.core.waiting import until

__all__ = ["line", "send", "sender", "worker"]
pytestmark = pytest.mark.anyio


async def test_a_message_is_handled_once_and_as_it_was_sent(
    settings: Settings, send: Send, worker: Worker
) -> None:
    sent = message(text="\0 ü \ud800 {}", large=1e22, whole=2**63, nested=[None, {"a": [True]}])
    async with serving(settings, worker.handle):
        await send(sent)
        await worker.has(1)
        await send(message("last"))
        await worker.has(2)
    assert worker.handled[0] == sent
    assert type(worker.handled[0]["kwargs"]["large"]) is float
    assert [each["key"] for each in worker.handled] == ["job", "last"]


async def test_what_is_sent_while_nobody_listens_is_handled_later(
    settings: Settings, send: Send, worker: Worker
) -> None:
    sent = [message() for _ in range(5)]
    await send(*sent)
    async with serving(settings, worker.handle):
        await worker.has(5)
    assert sorted(worker.handled, key=lambda each: each["fire_time"]) == sent


async def test_no_more_are_handled_at_a_time_than_there_are_slots(
    settings: Settings, send: Send, worker: Worker
) -> None:
    worker.go.clear()
    await send(*(message() for _ in range(6)))
    async with serving(settings, worker.handle, slots=2):
        await worker.has(2)
        await asyncio.sleep(0.3)
        worker.go.set()
        await worker.has(6)
    assert worker.most == 2


async def test_a_busy_worker_keeps_nothing_from_an_idle_one(
    settings: Settings, send: Send, worker: Worker
) -> None:
    idle = Worker()
    worker.go.clear()
    await send(*(message() for _ in range(5)))
    async with serving(settings, worker.handle, slots=1):
        await worker.has(1)
        async with serving(settings, idle.handle, slots=1):
            await idle.has(4)
        worker.go.set()
    assert len(worker.handled) == 1


async def test_a_stop_waits_for_what_is_handled_and_fetches_nothing_more(
    settings: Settings, send: Send, worker: Worker
) -> None:
    worker.go.clear()
    async with serving(settings, worker.handle, slots=2) as stopping:
        await send(message("running"), message("running"))
        await worker.has(2)
        stopping.set()
        await asyncio.sleep(0.3)
        await send(message("later"))
        await asyncio.sleep(0.3)
        assert worker.running == 2
        worker.go.set()
        await worker.ended()
    assert [each["key"] for each in worker.handled] == ["running"] * 2
    async with serving(settings, worker.handle):
        await worker.has(3)
    assert [each["key"] for each in worker.handled] == ["running", "running", "later"]


async def test_one_that_fails_costs_the_others_nothing(
    settings: Settings, send: Send, worker: Worker
) -> None:
    async def handle(message: Message) -> None:
        await worker.handle(message)
        if message["key"] == "bad":
            raise RuntimeError("bad")

    async with serving(settings, handle, slots=1):
        await send(message("bad"), message("good"))
        await worker.has(2)
    assert [each["key"] for each in worker.handled] == ["bad", "good"]


async def test_a_worker_outlives_an_outage_and_so_does_what_it_is_handling(
    settings: Settings, send: Send, worker: Worker, line: Cable
) -> None:
    worker.go.clear()
    async with serving(at(settings, line.url), worker.handle, slots=2):
        await send(message("long"))
        await worker.has(1)
        line.cut()
        await asyncio.sleep(1)
        await send(message("meanwhile"))
        assert worker.running == 1
        line.mend()
        await worker.has(2)
        await send(*(message("after") for _ in range(3)))
        await asyncio.sleep(0.3)
        assert worker.running == 2
        worker.go.set()
        await worker.has(5)
        await worker.ended()
    assert worker.most == 2


async def test_a_worker_starts_and_stops_while_its_broker_is_away(
    settings: Settings, send: Send, worker: Worker, line: Cable
) -> None:
    await send(message())
    line.cut()
    async with serving(at(settings, line.url), worker.handle):
        await asyncio.sleep(0.5)
    worker.go.clear()
    async with serving(at(settings, line.url), worker.handle) as stopping:
        await asyncio.sleep(0.5)
        line.mend()
        await worker.has(1)
        line.cut()
        stopping.set()
        worker.go.set()


async def test_a_killed_worker_stops_no_other(
    settings: Settings, send: Send, worker: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "handled"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.core.serving"), env=environment(settings, FILE=str(file))
    )
    await send(message("killed"))

    async def began() -> bool:
        return file.exists()

    await until(began)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await send(*(message("later") for _ in range(4)))
    async with serving(settings, worker.handle, slots=1):
        await worker.has(4)
    assert {each["key"] for each in worker.handled} == {"later"}
