"""A cable to a server, which a test can cut and mend: the server is shared, and stays up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit, urlunsplit


class Cable:
    """Carries what is sent to `url` on to the server, while it is whole."""

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self._ends: set[asyncio.StreamWriter] = set()
        self._whole = True
        self.url = ""

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._whole = True

    async def listen(self) -> asyncio.Server:
        listening = await asyncio.start_server(self._carry, "127.0.0.1")
        port = listening.sockets[0].getsockname()[1]
        user = f"{self._server.netloc.rpartition('@')[0]}@" if "@" in self._server.netloc else ""
        self.url = urlunsplit(self._server._replace(netloc=f"{user}127.0.0.1:{port}", query=""))
        return listening

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        from_server, to_server = await self._dial()
        self._ends |= {writer, to_server}
        with suppress(ConnectionError):
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))
        self._ends -= {writer, to_server}

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = parse_qs(self._server.query).get("host")
        if folder:
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        assert self._server.hostname is not None
        return await asyncio.open_connection(self._server.hostname, self._server.port)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


@asynccontextmanager
async def cable(server: str) -> AsyncIterator[Cable]:
    made = Cable(server)
    async with await made.listen():
        yield made
        made.cut()
