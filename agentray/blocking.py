"""Handles for code that does not await: scripts, notebooks, functions in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from agentray.errors import ChannelClosed, ConfigurationError

if TYPE_CHECKING:
    from agentray.agent import Agent
    from agentray.handle import Handle, RemoteAction
    from agentray.ids import AgentId

A = TypeVar("A", bound="Agent")
T = TypeVar("T")

_STREAM_END = object()

_CANCEL_WAIT_S = 3.0
"""How long an interrupted call waits for the end of what it cancelled; a channel takes 2 s."""

_LOOK_S = 1.0
"""How often a call looks whether its event loop is still there."""


class CountsWaits(Protocol):
    """An event loop that tells threads which wait for it from those that work."""

    def thread_waits(self) -> None:
        """Note that one more thread waits for the loop; called on the loop."""
        ...

    def thread_goes_on(self) -> None:
        """Note that it does not any more; called on the loop, before the thread knows."""
        ...


class ThreadCalls:
    """What one function in a thread waits for on an event loop, which may cancel it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make an empty one, on that loop."""
        self.loop = loop
        self.cancelled = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T], *, cleans_up: bool) -> T:
        """Run what the thread waits for.

        Raises:
            CancelledError: it is cancelled, or was before and this is no clean-up.
        """
        if self.cancelled and not cleans_up:
            work.close()
            raise asyncio.CancelledError
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def cancel(self) -> None:
        """Cancel what the thread waits for, and all that it still would; wait until it ended."""
        self.cancelled = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_CANCEL_WAIT_S)


class _Thread(threading.local):
    loop: CountsWaits | None = None
    calls: ThreadCalls | None = None


this_thread = _Thread()
"""Of the thread that looks at this: the event loop that waits for it, where that counts such; and
what it waits for itself."""


def wait_for(
    coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, *, cleans_up: bool = False
) -> T:
    """Run a coroutine on an event loop of another thread, and return what it returns.

    An interrupt (Ctrl-C) while it waits cancels it, and is raised when it has ended.

    Args:
        coroutine: what to run.
        loop: where.
        cleans_up: run it although what this thread does was cancelled.

    Raises:
        CancelledError: the handler that this thread works for was cancelled.
        ConfigurationError: this is the loop's own thread, which would wait for itself for ever.
        ChannelClosed: the loop has ended.
    """
    if runs_here(loop):
        coroutine.close()
        raise ConfigurationError(
            "This would wait for itself: on the event loop's own thread, await the handle's method "
            "instead of using handle.sync; inside of an agent, use handle.sync in self.run_sync()."
        )
    ended = threading.Event()
    calls = this_thread.calls
    if calls is not None and calls.loop is not loop:
        calls = None
    inner = coroutine if calls is None else calls.run(coroutine, cleans_up=cleans_up)
    work = _for_thread(inner, loop, ended)
    try:
        # This thread's context goes along: calls from a handler's thread belong to its message.
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        for one in (work, inner, coroutine):
            one.close()
        if loop.is_closed():
            raise ChannelClosed from None
        raise
    try:
        return _value_of(future, loop)
    except BaseException as error:
        if future.cancel():
            ended.wait(_CANCEL_WAIT_S)
        if isinstance(error, Cancelled) and calls is not None and calls.cancelled:
            raise asyncio.CancelledError from None  # it ends the function as it ends a handler
        raise


def _for_thread(
    work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, ended: threading.Event
) -> Coroutine[Any, Any, T]:
    """Return what an event loop runs while this thread waits for it."""
    counts = this_thread.loop
    if counts is not cast("object", loop):
        counts = None

    async def whole() -> T:
        if counts is not None:
            counts.thread_waits()
        try:
            return await work
        finally:
            if counts is not None:
                counts.thread_goes_on()
            ended.set()

    return whole()


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the loop's own thread, while it runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _value_of(future: Future[T], loop: asyncio.AbstractEventLoop) -> T:
    while True:
        try:
            return future.result(_LOOK_S)
        except TimeoutError:
            if future.done():
                return future.result()  # the error was its own, or it came just now
            if loop.is_closed():
                raise ChannelClosed from None


def read(stream: AsyncGenerator[T], loop: asyncio.AbstractEventLoop) -> Generator[T]:
    """Go through what comes from an event loop of another thread; leaving it closes it there."""

    async def next_item() -> Any:
        return await anext(stream, _STREAM_END)

    try:
        while (item := wait_for(next_item(), loop)) is not _STREAM_END:
            yield item
    finally:
        # Where this is collected late or by the loop itself, what is collected with it ends there.
        if not (loop.is_closed() or runs_here(loop)):
            wait_for(_close(stream), loop, cleans_up=True)


class SyncAction:
    """One action of a remote agent; calling it waits for its value."""

    __slots__ = ("_loop", "_method")

    def __init__(self, method: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
        self._method = method
        self._loop = loop

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the action.

        Returns:
            Its value; of an action that yields, an iterator.
        """

        async def begin() -> Any:
            begun: Any = self._method(*args, **kwargs)
            return cast("Any", begun) if isinstance(begun, AsyncIterator) else await begun

        begun = wait_for(begin(), self._loop)
        if isinstance(begun, AsyncIterator):
            return read(cast("AsyncGenerator[Any]", begun), self._loop)
        return begun

    def tell(self, *args: Any, **kwargs: Any) -> None:
        """Run the action without waiting for it; returns when it is queued at the agent."""
        tell = cast("RemoteAction", self._method).tell
        wait_for(tell(*args, **kwargs), self._loop)


class SyncHandle(Generic[A]):
    """A handle whose actions block: `handle.sync.greet("ada")` returns the value itself.

    An action that yields returns an ordinary iterator. `ping`, `status`, `describe`, `call` and
    `stream` are those of the handle.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle[A]) -> None:
        self._handle = handle

    @property
    def id(self) -> AgentId:
        """The agent's identity."""
        return self._handle.id

    def with_timeout(self, timeout: float | None) -> SyncHandle[A]:
        """Return this handle with another deadline for its calls, in seconds; None: no deadline."""
        return SyncHandle(self._handle.with_timeout(timeout))

    def __getattr__(self, name: str) -> SyncAction:
        if name.startswith("_"):
            raise AttributeError(name)
        return SyncAction(getattr(self._handle, name), self._handle.caller.loop)

    def __repr__(self) -> str:
        return f"{self._handle!r}.sync"


async def _close(stream: Any) -> None:
    await stream.aclose()
