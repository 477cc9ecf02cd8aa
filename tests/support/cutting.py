"""A proxy before PostgreSQL that cuts a connection after so many bytes of the server's answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit


class CuttingProxy:
    """Passes everything on, until the answers to what is asked have had so many bytes.

    What the client has sent by then has come to the server, which has done it or will.

    Attributes:
        left: bytes of answers that still go through; None: any number.
        cuts: how often it has cut.
        answers: where answers began, in bytes of all of them.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._user, self._database = parts.username, parts.path
        self.left: int | None = None
        self.cuts = 0
        self.answers: list[int] = []
        self._passed = 0
        self.dsn = ""
        self._passing: set[asyncio.Task[None]] = set()

    def begin(self, left: int | None) -> None:
        """Count from here on, and cut after so many bytes."""
        self.left, self._passed = left, 0
        self.answers.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[CuttingProxy]:
        """Serve on a free port of loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{self._user}@127.0.0.1:{port}{self._database}?sslmode=disable"
        try:
            yield self
        finally:
            server.close()
            for task in self._passing:
                task.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._socket)
            asking = asyncio.create_task(self._ask(reader, to_server))
            self._passing.add(asking)
            asking.add_done_callback(self._passing.discard)
            await self._answer(from_server, writer)
        finally:
            for end in (writer, to_server):
                if end is not None:
                    end.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.answers.append(self._passed)
                self._passed += len(data)
                if self.left is not None and len(data) > self.left:
                    writer.write(data[: self.left])
                    self.left = None  # once
                    self.cuts += 1
                    return
                if self.left is not None:
                    self.left -= len(data)
                writer.write(data)
                await writer.drain()
