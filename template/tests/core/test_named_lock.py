"""`lock("name")`, the guide's section 4, as it was meant."""

import asyncio
import threading

import pytest

from app.core.scheduling import LockNotAcquired, lock, named_lock
from tests.core.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("database")]


async def test_one_holder_at_a_time_and_a_growing_fence() -> None:
    async with lock("import") as first:
        with pytest.raises(LockNotAcquired, match="'import' is held elsewhere"):
            async with lock("import"):
                pass
        async with lock("other"):
            pass
    async with lock("import") as second:
        assert second.fence > first.fence


async def test_waiting_gets_it_when_it_is_free() -> None:
    order: list[str] = []

    async def hold() -> None:
        async with lock("import"):
            order.append("held")
            await asyncio.sleep(0.05)
            order.append("freed")

    holding = asyncio.create_task(hold())
    await until(lambda: asyncio.sleep(0, order))
    async with lock("import", wait=20):
        order.append("mine")
    await holding
    assert order == ["held", "freed", "mine"]


async def test_a_function_holds_it_too_and_an_error_frees_it() -> None:
    def work() -> None:
        with lock("import"):
            with pytest.raises(LockNotAcquired), lock("import", wait=0.05):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(work)
    async with lock("import"):
        pass


async def test_it_is_renewed_while_it_is_held() -> None:
    async with lock("import", lease=3) as held:
        await asyncio.sleep(3.3)
        with pytest.raises(LockNotAcquired):
            async with lock("import"):
                pass
        assert not held.lost


async def test_somebody_elses_lock_is_never_freed() -> None:
    async with lock("import") as mine:
        named_lock.current().release("import", mine.fence + 1)
        with pytest.raises(LockNotAcquired):
            async with lock("import"):
                pass


async def test_a_name_is_needed() -> None:
    with pytest.raises(ValueError, match="a name of 1 to 200 characters"):
        lock("")


@pytest.mark.parametrize("waits", ["coroutine", "function"])
async def test_a_backend_that_does_not_answer_is_not_waited_for_and_what_it_gives_is_given_back(
    monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    monkeypatch.setattr(named_lock, "_PATIENCE", 0.1)
    thaw, given = threading.Event(), list[int | None]()
    locks = named_lock.current()
    whole = locks.acquire

    def acquire(name: str, lease: float) -> int | None:
        if not thaw.wait(30):
            return None
        given.append(whole(name, lease))
        return given[-1]

    def work() -> None:
        with lock("import"):
            raise AssertionError

    async def work_async() -> None:
        async with lock("import"):
            raise AssertionError

    monkeypatch.setattr(locks, "acquire", acquire)
    working = asyncio.to_thread(work) if waits == "function" else work_async()
    with pytest.raises(TimeoutError, match="lock 'import': the lock backend gave no answer"):
        await working
    thaw.set()
    await until(lambda: asyncio.sleep(0, given))
    assert given[0]
    monkeypatch.setattr(named_lock, "_PATIENCE", 30)
    async with lock("import", wait=20) as mine:
        assert mine.fence > given[0]


async def test_a_lock_that_cannot_be_given_back_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def release(name: str, fence: int) -> None:
        raise OSError("the database is away")

    async with lock("import"):
        monkeypatch.setattr(named_lock.current(), "release", release)
    assert "lock 'import' is free only when its lease is over" in caplog.text
