"""Streams: the values that an action yields, on their way to the caller.

What is yielded in one turn of the event loop leaves as one part. Parts are numbered, because
responses may overtake each other; the host may be `WINDOW_PARTS` ahead of what the caller has read,
and waits then: a slow reader slows its writer down and fills nobody's memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from agentray import context as contexts
from agentray.errors import AgentMoved, DeadlineExceeded, PayloadError
from agentray.ids import AgentId
from agentray.protocol.codec import decode, decode_error, encode, error_of
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.runtime.message import Message, inherit
from agentray.runtime.scope import scope_of

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.turn import Turn

MAX_PART = 64
"""Items in one part."""

WINDOW_PARTS = 32
"""Parts that the caller has not read, before the action waits."""

_CREDIT_PARTS = 8
"""So many parts are read before the host is told. Where parts are of one item, as a model yields
them, every telling costs as much as the way of four of them: with half as many tellings, and less
waiting for them, 40 % more items per second."""

_CANCEL_GRACE_S = 2.0


class StreamMessage(Message):
    """The request of a stream, with what has come of it and is not read yet."""

    __slots__ = ("_context", "end", "error", "next", "parts", "told", "woken")

    def __init__(self, target: AgentId, action: str, payload: Any) -> None:
        super().__init__(int(Kind.STREAM), target, action, payload)
        self._context = contexts.current.get()
        if self._context is not None:
            inherit(self, self._context)
        self.parts: dict[int, bytes] = {}  # that have not been read
        self.next = 0  # number of the part to be read next
        self.told = 0  # parts that the host knows to be read
        self.end: int | None = None  # how many parts there are, once that is known
        self.error: BaseException | None = None  # raised after the last part
        self.woken: asyncio.Future[None] | None = None  # its reader waits

    @property
    def untouched(self) -> bool:
        """Whether nothing of it has come."""
        return self.next == 0 and not self.parts

    def is_whole(self, end: Reply) -> bool:
        """Whether, with this end, nothing of it is still to come."""
        return end.kind != ReplyKind.VALUE or self.next + len(self.parts) >= end.payload[0]

    def on_reply(self, reply: Reply) -> None:
        """Take a part, or the end."""
        if reply.kind == ReplyKind.CHUNK:
            number, data = reply.payload
            if self.closed:
                return  # it was left
            if number >= self.next:
                self.parts[number] = data
        else:
            left, self.closed = self.closed, True
            self._take_end(reply, left=left)
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)

    def _take_end(self, reply: Reply, *, left: bool) -> None:
        if reply.kind == ReplyKind.VALUE:
            self.end, error = reply.payload
            self.error = None if error is None else decode_error(error)
        else:  # refused, or lost: what has come in order is still read
            self.end = self.next
            while self.end in self.parts:
                self.end += 1
            if reply.kind == ReplyKind.ERROR:
                self.error = error_of(reply)
            elif not left:
                reason = "its host heard nothing of the reader for too long"
                self.error = AgentMoved(str(self.target), reason)
        if reply.outcome is not None and self._context is not None:
            scope_of(self._context).absorb(reply.outcome)

    def take(self) -> list[Any] | None:
        """Return the items of the next part; None: it has not come.

        Raises:
            BaseException: there is none; what the action raised, or `StopAsyncIteration`.
        """
        part = self.parts.pop(self.next, None)
        if part is not None:
            self.next += 1
            self._tell_read()
            return decode(part)
        if self.end is not None and self.next >= self.end:
            raise self.error or StopAsyncIteration
        return None

    def stop(self) -> None:
        """Let nothing more be read from it."""
        self.parts.clear()
        self.end = self.next

    def _tell_read(self) -> None:
        if self.next - self.told >= _CREDIT_PARTS and self.link is not None and not self.closed:
            self.told = self.next
            self.link.tell_host(Kind.CREDIT, self, f"{self.id}:{self.next}")


class Stream:
    """What an action yields, as an asynchronous iterator.

    Leaving it before its end, by `break`, an error, a cancellation or `aclose`, cancels the action.
    """

    def __init__(self, message: StreamMessage, channel: Channel, timeout: float | None) -> None:
        """Read a stream that the channel sends.

        Args:
            message: its request.
            channel: through which it is cancelled.
            timeout: the longest wait for the next item, in seconds; None: as long as it takes.
        """
        self._message = message
        self._channel = channel
        self._timeout = timeout
        self._items: deque[Any] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        items = self._items
        while not items:
            part = self._message.take()
            if part is None:
                await self._wait()
            else:
                items.extend(part)
        return items.popleft()

    async def _wait(self) -> None:
        message = self._message
        if message.woken is not None:
            raise RuntimeError(f"Two tasks read the stream {message.name} of {message.target}.")
        message.woken = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout):
                await message.woken
        except TimeoutError:
            self._channel.cancel(message)  # nobody waits for a host that does not answer
            message.stop()
            raise DeadlineExceeded(f"{message.target}.{message.name}", self._timeout) from None
        except asyncio.CancelledError:
            await self.aclose()
            raise
        finally:
            message.woken = None

    async def aclose(self) -> None:
        """End it: the action is cancelled, and has ended when this returns, or after 2 s."""
        message = self._message
        if message.closed:
            return
        self._items.clear()
        message.stop()
        if message.woken is not None and not message.woken.done():
            message.woken.set_result(None)  # another task reads: there is nothing more for it
        ended = message.woken = asyncio.get_running_loop().create_future()
        try:
            if self._channel.cancel(message):
                await asyncio.wait((ended,), timeout=_CANCEL_GRACE_S)
        finally:
            message.woken = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Left by `break`: nobody awaits anything here, and it may be any thread.
        if not self._message.closed:
            self._channel.abandon(self._message)


class PartWriter:
    """The host's end of one stream."""

    __slots__ = ("_error", "_items", "_loop", "_number", "_read", "_room", "_scheduled", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._items: list[Any] = []
        self._number = 0  # parts that have left
        self._read = 0  # parts that the caller has read, as far as this end knows
        self._scheduled = False
        self._room: asyncio.Future[None] | None = None
        self._error: PayloadError | None = None

    def put(self, item: Any) -> bool:
        """Take an item.

        Returns:
            Whether there is room for more; if not, await `until_room` before the next.

        Raises:
            PayloadError: this item or an earlier one cannot be serialised.
        """
        if self._error is not None:
            raise self._error
        self._items.append(item)
        if len(self._items) >= MAX_PART:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_soon)
        return self._number - self._read < WINDOW_PARTS

    async def until_room(self) -> None:
        """Wait until the caller has read more."""
        while self._number - self._read >= WINDOW_PARTS:
            self._room = self._loop.create_future()
            await self._room

    def read(self, parts: int) -> None:
        """Note how many parts the caller has read."""
        self._read = max(self._read, parts)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def finish(self) -> int:
        """Send what is left, and return how many parts there are.

        Raises:
            PayloadError: an item cannot be serialised.
        """
        self._flush()
        if self._error is not None:
            raise self._error
        return self._number

    def end(self) -> int:
        """Send what was taken before the action failed, and return how many parts there are."""
        self._flush()
        return self._number

    def _flush_soon(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if not self._items or self._error is not None:
            return
        items, self._items = self._items, []
        envelope = self._turn.envelope
        try:
            data = encode(items, f"items of {envelope.name}()")
        except PayloadError as error:
            self._error = error
            return
        self._turn.sink.reply(envelope.id, ReplyKind.CHUNK, (self._number, data))
        self._number += 1
