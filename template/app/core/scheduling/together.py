"""Writes that come together go together: whoever comes while one is under way joins the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_MOST = 500


class Together(Generic[Item, Answer]):
    """One call of `write` for many items, each of whose callers gets its own answer, or the error.

    Alone, an item is written at once.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="write-together")
        return await answer

    async def _write_all(self) -> None:
        while batch := self._waiting[:_MOST]:
            del self._waiting[:_MOST]
            try:
                answers = await self._write([item for item, _ in batch])
            except Exception as error:
                for _, waiting in batch:
                    if not waiting.done():  # its caller may have been cancelled
                        waiting.set_exception(error)
            else:
                for (_, waiting), answer in zip(batch, answers, strict=True):
                    if not waiting.done():
                        waiting.set_result(answer)
