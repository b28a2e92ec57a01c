"""Cables between the processes and their servers, which can be cut: nothing is carried, or said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65_536


class Cable:
    """What is sent into it while it is cut arrives when it is mended, as with TCP."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: str) -> None:
        self._loop = loop
        self._server = urlsplit(server)
        self._whole = asyncio.Event()
        self._whole.set()
        self.url = ""

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    async def lay(self) -> None:
        listening = await asyncio.start_server(self._carry, "127.0.0.1")
        address, port = listening.sockets[0].getsockname()
        user = f"{self._server.username}@" if self._server.username else ""
        self.url = urlunsplit(self._server._replace(netloc=f"{user}{address}:{port}"))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            host, port = self._server.hostname, self._server.port
            from_server, to_server = await asyncio.open_connection(host, port)
        except OSError:  # the server is down
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, to_server), self._pump(from_server, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                await self._whole.wait()
                sink.write(data)
                await sink.drain()
        await self._whole.wait()
        sink.close()


@contextmanager
def cables() -> Iterator[Callable[[str], Cable]]:
    """What lays a cable to the server of a URL; all of them end with it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="cables", daemon=True)
    thread.start()

    def lay(server: str) -> Cable:
        cable = Cable(loop, server)
        asyncio.run_coroutine_threadsafe(cable.lay(), loop).result(10)
        return cable

    try:
        yield lay
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
