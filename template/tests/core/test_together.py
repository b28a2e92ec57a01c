"""Writes that come together go together, and each caller gets what is its own."""

import asyncio
from collections.abc import Sequence

import pytest

from app.core.scheduling.together import Together

pytestmark = pytest.mark.anyio


class Writer:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.may_end.wait()
        if 13 in items:
            raise RuntimeError("not this one")
        return [item * 10 for item in items]


async def test_what_comes_while_one_is_written_is_written_together() -> None:
    writer = Writer()
    together = Together(writer.write)
    first = asyncio.create_task(together(1))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(together(n)) for n in (2, 3, 4)]
    await asyncio.sleep(0.01)
    assert writer.batches == [[1]]
    writer.may_end.set()
    assert await asyncio.gather(first, *others) == [10, 20, 30, 40]
    assert writer.batches == [[1], [2, 3, 4]]
    assert await together(5) == 50


async def test_an_error_is_everybodys_whose_write_it_was_and_nobody_elses() -> None:
    writer = Writer()
    writer.may_end.set()
    together = Together(writer.write)
    answers = await asyncio.gather(together(12), together(13), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["not this one"] * 2
    assert await together(1) == 10


async def test_a_caller_who_is_cancelled_takes_nobody_with_it() -> None:
    writer = Writer()
    together = Together(writer.write)
    leaving, staying = (asyncio.create_task(together(n)) for n in (1, 2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    writer.may_end.set()
    assert await staying == 20
