"""An event loop in a thread of its own, for callers that have none, or are within another one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_END_S = 2.0


class LoopThread:
    """Starts with its first call. A daemon: who forgets to close it ends all the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._open: set[AsyncGenerator[Any]] = set()
        self._pid = os.getpid()

    @property
    def closed(self) -> bool:
        """Whether it takes no calls any more."""
        return self._closed

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there, and wait for what it returns. An interrupt cancels it.

        Raises:
            RuntimeError: `close` was called, or this is another process than that which made it,
                or the loop's own thread.
            BaseException: what it raised.
        """
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """Yield what an asynchronous generator yields there; it is closed with this one.

        Raises:
            RuntimeError: as `call`.
            BaseException: what it raised.
        """
        ended = object()

        async def following() -> Any:
            return await anext(items, ended)

        self._open.add(items)
        try:
            while (item := self.call(following)) is not ended:
                yield item
        finally:
            self._open.discard(items)
            if not self._closed:  # else it was closed before the loop
                self.call(items.aclose)

    def let_go(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something tidied up there some time; nobody waits for it."""
        with self._lock:
            loop = None if self._closed or os.getpid() != self._pid else self._loop
        if loop is not None:
            asyncio.run_coroutine_threadsafe(work(), loop)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """End the thread, after a last call; harmless when called twice.

        Args:
            last: what tidies up there; not called when nothing was.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or os.getpid() != self._pid:
            return
        asyncio.run_coroutine_threadsafe(_end(last, tuple(self._open)), loop)
        if thread is not threading.current_thread():
            thread.join(_END_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._pid:
            raise RuntimeError("The client was made in another process: make one in this one.")
        with self._lock:
            if self._closed:
                raise RuntimeError("The client is closed.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="agentray-client", daemon=True
                )
                self._thread.start()
            if self._thread is threading.current_thread():
                raise RuntimeError("The client's own event loop cannot wait for itself.")
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(
    last: Callable[[], Coroutine[Any, Any, None]] | None, items: Iterable[AsyncGenerator[Any]]
) -> None:
    """Let everything end, and the loop with it."""
    loop = asyncio.get_running_loop()
    try:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # From the outside in: the loop itself would close what they are made of at the same time.
        for each in items:
            await each.aclose()
        if last is not None:
            await last()
        await loop.shutdown_asyncgens()
    finally:
        loop.stop()
