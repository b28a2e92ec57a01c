"""Servers that are 2 ms away: what is sent to them, and what they send, arrives 1 ms later."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.rendered import environment, urls

if TYPE_CHECKING:
    from app.settings import Settings

_ONE_WAY = 0.001


@contextmanager
def away(given: Settings) -> Iterator[Settings]:
    """Inside a rendered service: the same settings, and its servers behind that distance.

    Carried by processes of their own: the loop that is measured has nothing to do with it.
    """
    from pydantic import SecretStr

    with ExitStack() as stack:
        far = {}
        for name, url in urls(given).items():
            command = [sys.executable, "-m", "benchmarks.away", url]
            carrying = stack.enter_context(
                subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
            )
            stack.callback(carrying.terminate)
            assert carrying.stdout
            far[name.lower()] = SecretStr(carrying.stdout.readline().strip())
        yield given.model_copy(update=far)


async def main(server: str) -> None:
    from tests.core.cable import Cable

    class Distance(Cable):
        async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await self._dial()
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))

    distance = Distance(server)
    async with await distance.listen() as listening:
        print(distance.url, flush=True)
        await listening.serve_forever()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await source.read(65_536):
            loop.call_later(_ONE_WAY, sink.write, data)
    except ConnectionError:
        pass
    finally:
        loop.call_later(2 * _ONE_WAY, sink.close)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
