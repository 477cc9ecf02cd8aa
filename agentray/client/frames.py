"""Streams of frames: through a WebSocket, or line by line through HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp

from agentray.client.calls.http import Request
from agentray.client.connection import Connection, failed
from agentray.client.errors import ConnectionFailed, TimedOut, WebSocketRefused
from agentray.client.job_log import SILENCE_S

_CLOSING = aiohttp.ClientWSTimeout(ws_close=1.0)  # pyright: ignore[reportCallIssue] - by attrs
_MOST_BYTES = 16 * 1024 * 1024  # of one frame: bounded, whoever is at the other end


@asynccontextmanager
async def open_frames(
    connection: Connection,
    request: Request,
    protocol: Literal["websocket", "http"],
    *,
    timeout_s: float,
) -> AsyncGenerator[AsyncGenerator[str | bytes]]:
    """Open a stream of frames, once.

    Args:
        connection: to the gateway.
        request: what to ask.
        protocol: how.
        timeout_s: seconds until it is there.

    Yields:
        The frames. Each is whole; the last one may be missing.

    Raises:
        ClientError: the gateway refuses, or cannot be reached.
        WebSocketRefused: there is no WebSocket.
    """
    opened = _websocket if protocol == "websocket" else _lines
    async with opened(connection, request, timeout_s) as frames:
        try:
            yield frames
        finally:
            await frames.aclose()


@asynccontextmanager
async def _websocket(
    connection: Connection, request: Request, timeout_s: float
) -> AsyncGenerator[AsyncGenerator[str | bytes]]:
    try:
        async with asyncio.timeout(timeout_s):
            socket = await connection.session.ws_connect(
                connection.address(request),
                max_msg_size=_MOST_BYTES,
                timeout=_CLOSING,
            )
    except aiohttp.WSServerHandshakeError as error:
        told = f"HTTP status {error.status}"
        raise WebSocketRefused(error.status, "The WebSocket was refused", told) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise failed(connection.url, error) from error
    try:
        yield _messages(socket, connection.url)
    finally:
        await socket.close()


async def _messages(
    socket: aiohttp.ClientWebSocketResponse, url: str
) -> AsyncGenerator[str | bytes]:
    while True:
        try:
            message = await socket.receive(SILENCE_S)
        except TimeoutError as error:
            raise TimedOut(f"{url}: nothing came for {SILENCE_S:g} s") from error
        match message.type:
            case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                yield message.data
            case aiohttp.WSMsgType.ERROR:
                raise ConnectionFailed(f"{url}: {socket.exception()}")
            case _:  # it was closed, by whomever
                return


@asynccontextmanager
async def _lines(
    connection: Connection, request: Request, timeout_s: float
) -> AsyncGenerator[AsyncGenerator[str | bytes]]:
    async with connection.once(request, connect_s=timeout_s, silence_s=SILENCE_S) as stream:
        yield _split(stream.chunks())


async def _split(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[str | bytes]:
    rest = b""
    try:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MOST_BYTES:
                raise ConnectionFailed("the log has a frame without an end")
            for line in lines:
                if line:
                    yield line
    finally:
        await chunks.aclose()
