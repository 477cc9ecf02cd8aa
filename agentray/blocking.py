"""Handles for code that does not await: scripts, notebooks, functions in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentray.errors import ConfigurationError

if TYPE_CHECKING:
    from agentray.agent import Agent
    from agentray.handle import Handle

A = TypeVar("A", bound="Agent")
T = TypeVar("T")

_STREAM_END = object()


def wait_for(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Run a coroutine on an event loop of another thread, and return what it returns.

    An interrupt (Ctrl-C) while it waits cancels it.

    Raises:
        ConfigurationError: this is the loop's own thread, which would wait for itself for ever.
    """
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coroutine.close()
        raise ConfigurationError(
            "This would wait for itself: on the event loop's own thread, await the handle's method "
            "instead of using handle.sync; inside of an agent, use handle.sync in self.run_sync()."
        )
    # The context of this thread goes along: calls from a handler's thread belong to its message.
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class SyncHandle(Generic[A]):
    """A handle whose actions block: `handle.sync.greet("ada")` returns the value itself.

    An action that yields returns an ordinary iterator.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle[A]) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._handle, name)
        loop = self._handle.caller.loop

        def blocking(*args: Any, **kwargs: Any) -> Any:
            async def begin() -> Any:
                begun: Any = method(*args, **kwargs)
                return cast("Any", begun) if isinstance(begun, AsyncIterator) else await begun

            begun = wait_for(begin(), loop)
            if isinstance(begun, AsyncIterator):
                return _read(cast("AsyncIterator[Any]", begun), loop)
            return begun

        return blocking

    def __repr__(self) -> str:
        return f"{self._handle!r}.sync"


def _read(stream: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    async def next_item() -> Any:
        return await anext(stream, _STREAM_END)

    try:
        while (item := wait_for(next_item(), loop)) is not _STREAM_END:
            yield item
    finally:
        wait_for(_close(stream), loop)


async def _close(stream: Any) -> None:
    await stream.aclose()
