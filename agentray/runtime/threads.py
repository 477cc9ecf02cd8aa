"""The threads of a host: where its agents' blocking code runs.

A pool of its own: agents that fill it up block each other, but neither the event loop nor what
asyncio itself does in threads, such as looking up names. The threads are daemons: one that never
ends does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from agentray.blocking import ThreadCalls, this_thread

P = ParamSpec("P")
R = TypeVar("R")


def default_limit() -> int:
    """Return how many threads a host has where no setting says otherwise."""
    return min(32, (os.cpu_count() or 1) + 4)


class Threads(Executor):
    """A bounded pool of daemon threads, which are started when they are needed."""

    def __init__(self, limit: int | None = None, *, name: str = "agentray") -> None:
        """Make an empty pool.

        Args:
            limit: most threads; None: `default_limit()`.
            name: what their names begin with.
        """
        self.limit = limit or default_limit()
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._open = 0  # calls that have not ended
        self._closed = False

    @property
    def busy(self) -> int:
        """How many calls are under way."""
        return min(self._open, self.limit)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return max(0, self._open - self.limit)

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in a thread, within a copy of the present context.

        Cancelling this takes back what has not begun; what has begun goes on to its end, but what
        it waits for on this event loop is cancelled, and it can wait for no more.
        """
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        calls = ThreadCalls(loop)

        def call() -> R:
            this_thread.calls = calls
            try:
                return context.run(_guarded, function)
            finally:
                this_thread.calls = None

        try:
            return await loop.run_in_executor(self, call)
        except asyncio.CancelledError:
            await calls.cancel()
            raise

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """See `concurrent.futures.Executor`.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The host has stopped.")
            self._open += 1
            if self._started < min(self._open, self.limit):
                name = f"{self._name}-{self._started}"
                self._started += 1
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._calls.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            try:
                if future.set_running_or_notify_cancel():
                    _settle(future, function)
            finally:
                with self._lock:
                    self._open -= 1
            del call, future, function  # an idle thread must not keep an agent's objects

    def close(self) -> None:
        """Take no more calls; threads end when they have ended what they do. Does not wait."""
        with self._lock:
            self._closed = True
            started = self._started
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                break
            if call is not None:
                call[0].cancel()
        for _ in range(started):
            self._calls.put(None)


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - an exit of user code ends its own call
        future.set_exception(error)
    else:
        future.set_result(result)


def _guarded(function: Callable[[], R]) -> R:
    try:
        return function()
    except StopIteration as error:
        # A future cannot carry it.
        raise RuntimeError("The function raised StopIteration.") from error


def in_own_thread(function: Callable[[], R], name: str) -> asyncio.Future[R]:
    """Run a function in a daemon thread of its own, within a copy of the present context."""
    loop = asyncio.get_running_loop()
    future: Future[R] = Future()
    future.set_running_or_notify_cancel()
    context = contextvars.copy_context()

    def work() -> None:
        _settle(future, lambda: context.run(_guarded, function))

    threading.Thread(target=work, name=name, daemon=True).start()
    return asyncio.wrap_future(future, loop=loop)
