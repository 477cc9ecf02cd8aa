"""Follows the log of a job across broken connections, replicas that leave, and restarts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Generic, Literal, Protocol, Self, TypeVar

from agentray.client.calls.http import Request, pause_before_retry
from agentray.client.calls.job_log import (
    LineJoiner,
    LogEnd,
    LogEvent,
    LogReader,
    LogWish,
)
from agentray.client.calls.ray_jobs import LogProtocol
from agentray.client.errors import (
    ClientError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    StreamLimitExceeded,
    TooManyRequests,
    Unauthorized,
    WebSocketRefused,
    class_of,
)

T = TypeVar("T")

SILENCE_S = 15.0
"""A gateway says something each five seconds: a connection that is silent for so long is dead."""


class FrameOpener(Protocol):
    """Opens a stream of frames. Raises `ClientError`, and does not try again."""

    def __call__(
        self, request: Request, protocol: Literal["websocket", "http"], *, timeout_s: float
    ) -> AbstractAsyncContextManager[AsyncGenerator[str | bytes]]:
        """Open one.

        Args:
            request: what to ask.
            protocol: how.
            timeout_s: seconds until the first frame is there.
        """
        ...


class AsyncLogTail(Generic[T]):
    """What comes of a log, bit by bit: `async for line in tail`.

    It ends as the log does. `end` says why then, and `offset` at any time how far it has come.
    """

    def __init__(self, batches: AsyncGenerator[list[T]], reader: LogReader) -> None:
        """Made by the client."""
        self._batches = batches
        self._reader = reader
        self._ready: deque[T] = deque()

    @property
    def offset(self) -> int:
        """Up to which byte of the log has been received."""
        return self._reader.offset

    @property
    def end(self) -> LogEnd | None:
        """Why nothing more comes; None: more may come."""
        return self._reader.end

    async def batch(self) -> list[T]:
        """Return what has come, at once, or as soon as something does; []: nothing more comes.

        Raises:
            ClientError: as the method says that has made it.
        """
        if self._ready:
            found = list(self._ready)
            self._ready.clear()
            return found
        async for found in self._batches:
            if found:
                return found
        return []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._ready:
            self._ready.extend(await self.batch())
            if not self._ready:
                raise StopAsyncIteration
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Leave it; harmless when it has ended."""
        await self._batches.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def follow(
    open_frames: FrameOpener,
    reader: LogReader,
    feed: Callable[[str | bytes], list[T]],
    protocol: LogProtocol,
    timeout_s: float,
) -> AsyncGenerator[list[T]]:
    """Yield what is told of a log until its end, coming back where a connection broke.

    Args:
        open_frames: how to get there.
        reader: knows what is wanted, and what has come.
        feed: gives it a frame, and returns what is to be yielded.
        protocol: `auto`: a WebSocket, and plain HTTP where there is none.
        timeout_s: it is over when there was no sign of the gateway for so long.

    Raises:
        ClientError: the gateway refuses, or shows no sign any more, or the end is no good one.
    """
    way: Literal["websocket", "http"] = "http" if protocol == "http" else "websocket"
    trouble = _Trouble(timeout_s)
    while reader.end is None:
        if limit := reader.exhausted():
            raise StreamLimitExceeded(limit, reader.offset)
        try:
            async with open_frames(reader.request(way), way, timeout_s=timeout_s) as frames:
                async for frame in frames:
                    trouble.over()
                    if told := feed(frame):
                        yield told
                    if reader.end is not None:
                        break
                else:
                    raise ConnectionFailed("the log broke off")
        except WebSocketRefused as error:
            if protocol == "auto":
                way = "http"  # it gets there through more, and says why where it is refused, too
            elif error.status_code < 500:
                raise _refusal(error) from error
            else:  # a gateway that is about to come, or a proxy that has lost it
                await trouble.wait(ConnectionFailed(str(error)))
        except ClientError as error:
            await trouble.wait(error)
    reader.check_end()


def _refusal(error: WebSocketRefused) -> ClientError:
    """Return the error of what the gateway says of jobs and keys; else the handshake failed."""
    kind = class_of(error.status_code)
    if not issubclass(kind, Unauthorized | Forbidden | NotFound | TooManyRequests):
        return error
    return kind(error.status_code, str(error))


class _Trouble:
    """Waits between two connections, as long as there is hope."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._alive_at = time.monotonic()  # the last sign of the gateway
        self._attempt = 0
        self._came = False

    def over(self) -> None:
        """Note a sign of the gateway."""
        self._came, self._alive_at = True, time.monotonic()

    async def wait(self, error: ClientError) -> None:
        """Wait until it may be tried again.

        Raises:
            ClientError: that one: it will not pass, or there was no sign for too long.
        """
        if self._came:
            self._came, self._attempt = False, 0
            if isinstance(error, ConnectionFailed):
                return  # at once: something came through the connection that broke
        self._attempt += 1
        pause_s = pause_before_retry(error, self._attempt)
        if pause_s is None or time.monotonic() + pause_s - self._alive_at >= self._timeout_s:
            raise error
        await asyncio.sleep(pause_s)


async def _to_the_last(
    lines: AsyncGenerator[list[str]], joiner: LineJoiner
) -> AsyncGenerator[list[str]]:
    """Yield lines, and at the end what has no line end."""
    try:
        async for told in lines:
            yield told
    except StreamLimitExceeded:
        if (rest := joiner.last()) is not None:
            yield [rest]
        raise
    finally:
        await lines.aclose()
    if (rest := joiner.last()) is not None:
        yield [rest]


def tail_of(
    open_frames: FrameOpener, wish: LogWish, protocol: LogProtocol, timeout_s: float
) -> AsyncLogTail[LogEvent]:
    """Return all that is told of a log."""
    reader = LogReader(wish)
    events = follow(open_frames, reader, reader.feed, protocol, timeout_s)
    return AsyncLogTail(events, reader)


def line_tail_of(
    open_frames: FrameOpener, wish: LogWish, protocol: LogProtocol, timeout_s: float
) -> AsyncLogTail[str]:
    """Return the lines of a log; longer ones than a message may be are cut, and said to be."""
    reader, joiner = LogReader(wish), LineJoiner(wish.limits.max_message_size)
    feed = partial(reader.feed_lines, joiner=joiner)
    lines = follow(open_frames, reader, feed, protocol, timeout_s)
    return AsyncLogTail(_to_the_last(lines, joiner), reader)
