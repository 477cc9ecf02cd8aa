"""The bridge: sends through a caller whose event loop runs in another thread.

Every event loop and every thread may use it. Cancelling goes along, and is over when what was
cancelled has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Self, TypeVar, cast

from agentray.blocking import runs_here, wait_for
from agentray.context import Caller
from agentray.errors import ChannelClosed
from agentray.ids import AgentId
from agentray.protocol.buffers import encode_call
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Kind

T = TypeVar("T")

_CANCEL_WAIT_S = 3.0
"""How long a cancelled call waits for the end of what it cancelled; a channel takes 2 s."""

_QUEUED_S = 60.0
"""How long a message that nobody waits for may take to its agent's queue; as a channel's."""


class Bridge:
    """A `Caller` for other event loops than that of the caller behind it.

    Arguments are serialised where they are given, before anybody can change them.
    """

    def __init__(self, caller: Caller) -> None:
        """Send through a caller, whose event loop runs in another thread."""
        self._caller = caller
        self.loop = caller.loop
        self._tasks: set[asyncio.Task[Any]] = set()  # on the other loop; it ends them

    async def across(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the other event loop, and return what it returns.

        Raises:
            ChannelClosed: the loop has ended, or ends.
            BaseException: what it raised.
        """
        here = asyncio.get_running_loop()
        if here is self.loop:
            return await work()
        errand = _Errand(work, here, self._tasks)
        self._post(errand.begin)
        try:
            # Not the future itself, which would be lost when this call is cancelled.
            await asyncio.wait((errand.ended,))
        except asyncio.CancelledError:
            self._post(errand.cancel)
            await asyncio.wait((errand.ended,), timeout=_CANCEL_WAIT_S)
            raise
        if errand.error is not None:
            raise errand.error
        return cast("T", errand.value)

    def _post(self, callback: Callable[[], object]) -> None:
        """Have something done on the other event loop, in the context of this call."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if self.loop.is_closed():
                raise ChannelClosed from None
            raise

    async def call(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> Any:
        """See `Caller.call`."""
        payload = encode_call(args, kwargs, action)
        return decode(await self.request(Kind.CALL, target, action, payload, timeout=timeout))

    async def tell(
        self, target: AgentId, action: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """See `Caller.tell`."""
        payload = encode_call(args, kwargs, action)
        await self.request(Kind.TELL, target, action, payload, timeout=_QUEUED_S)

    def streams(self, target: AgentId, action: str) -> bool | None:
        """See `Caller.streams`."""
        return self._caller.streams(target, action)

    def stream(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> AsyncIterator[Any]:
        """See `Caller.stream`; waits until the other thread has sent the message."""
        if runs_here(self.loop):
            return self._caller.stream(target, action, args, kwargs, timeout=timeout)

        async def begin() -> AsyncIterator[Any]:
            return self._caller.stream(target, action, args, kwargs, timeout=timeout)

        return BridgedStream(wait_for(begin(), self.loop), self)

    async def ping(self, target: AgentId, *, timeout: float) -> float:
        """See `Caller.ping`."""
        return await self.across(lambda: self._caller.ping(target, timeout=timeout))

    async def inspect(self, target: AgentId, what: str, *, timeout: float) -> dict[str, Any]:
        """See `Caller.inspect`."""
        return await self.across(lambda: self._caller.inspect(target, what, timeout=timeout))

    async def request(
        self, kind: int, target: AgentId, name: str, payload: Any, *, timeout: float | None
    ) -> Any:
        """See `Caller.request`."""
        return await self.across(
            lambda: self._caller.request(kind, target, name, payload, timeout=timeout)
        )


class _Errand:
    """One coroutine's way to the other event loop and back."""

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, Any]],
        here: asyncio.AbstractEventLoop,
        tasks: set[asyncio.Task[Any]],
    ) -> None:
        self._work = work
        self._here = here
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[None] = here.create_future()
        self.value: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Start it; runs on the other loop, and so before `cancel`, which is posted later."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._tasks.add(self._task)
        self._task.add_done_callback(self._report)

    def cancel(self) -> None:
        """Cancel it; runs on the other loop."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self.value = await self._work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - an exit is its caller's, not this loop's
            self.error = error

    def _report(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self.error = ChannelClosed()  # by the loop's end; a caller that cancelled does not ask
        try:
            self._here.call_soon_threadsafe(self._end)
        except RuntimeError:
            if not self._here.is_closed():
                raise

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class BridgedStream:
    """A stream that lives on the other event loop; see `streams.Stream`."""

    def __init__(self, stream: AsyncIterator[Any], bridge: Bridge) -> None:
        """Read a stream of the caller behind a bridge."""
        # A stream is closed as a generator is; the protocol of iterators does not say so.
        self._stream = cast("AsyncGenerator[Any]", stream)
        self._bridge = bridge

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        # Its end, too, travels as an exception that a coroutine may raise.
        return await self._bridge.across(self._stream.__anext__)

    async def aclose(self) -> None:
        """End it: the action is cancelled, and has ended when this returns, or after 2 s."""
        await self._bridge.across(self._stream.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
