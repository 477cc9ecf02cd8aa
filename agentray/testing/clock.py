"""A clock for tests: an event loop whose time jumps to the next timer when nothing else is left.

Waits of seconds take no time, in the same order whatever machine it is, and what would wait for
ever is found at once. Time moves only while the test awaits something, and only as far as that
needs; `ManualClock.advance` moves it by hand. Work in threads (`run_sync`) is waited for in real
time: the clock stands still meanwhile, except while the threads themselves wait for agents
(`handle.sync`). Threads of which none gets on for a minute are a hang.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from agentray.blocking import this_thread
from agentray.errors import ConfigurationError

__all__ = ["ManualClock", "VirtualTimeLoop", "run"]

T = TypeVar("T")

_SETTLE_STEPS = 20
"""Iterations of the loop after which what has just been cancelled or answered has ended."""


THREADS_AT_MOST_S = 60.0
"""Real seconds after which threads hang of which none has begun, ended, or waited for an agent."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For coroutines that wait for each other, for time and for threads; not for sockets."""

    def __init__(
        self, start: datetime | None = None, *, threads_at_most_s: float = THREADS_AT_MOST_S
    ) -> None:
        """Make one.

        Args:
            start: the time of day at which it begins; None: that of the machine.
            threads_at_most_s: in real seconds; when no thread gets on for longer, it is a hang.
        """
        self._threads_at_most_s = threads_at_most_s
        self._threads_waiting = 0
        self._threads_moved = 0.0  # in seconds of the machine's clock
        self._now = 0.0
        self._start = start or datetime.now(UTC)
        self._in_threads = 0
        self._given_up = False  # threads hang: what is left ends without them
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    def time_of_day(self) -> datetime:
        """Return the time of day that delays and schedules go by."""
        return self._start + timedelta(seconds=self._now)

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    @property
    def waits_for_threads(self) -> bool:
        """Whether work in threads is under way, which takes real time; not if all wait for it."""
        return self._in_threads > self._threads_waiting and not self._given_up

    def give_threads_up(self) -> None:
        """Wait for threads no more: they hang."""
        self._given_up = True

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """As any loop's; counts what is under way."""
        future = super().run_in_executor(executor, self._in_thread, func, args)
        self._count_thread(1)
        future.add_done_callback(self._thread_done)
        return future

    def _in_thread(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run what a thread shall, which lets the loop know when it waits for it."""
        this_thread.loop = self
        try:
            return func(*args)
        finally:
            this_thread.loop = None

    def thread_waits(self) -> None:
        """See `blocking.CountsWaits`."""
        self._threads_waiting += 1
        self._count_thread(0)

    def thread_goes_on(self) -> None:
        """See `blocking.CountsWaits`."""
        self._threads_waiting -= 1
        self._count_thread(0)

    @property
    def threads_left_s(self) -> float:
        """Real seconds that are left until threads hang."""
        return self._threads_moved + self._threads_at_most_s - time.monotonic()

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As any loop's; it waits for a thread, too."""
        self._count_thread(1)
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._count_thread(-1)

    def _thread_done(self, _: object) -> None:
        self._count_thread(-1)

    def _count_thread(self, more: int) -> None:
        self._in_threads += more
        self._threads_moved = time.monotonic()


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.waits_for_threads:
            left_s = self._loop.threads_left_s
            if left_s <= 0:
                self._loop.give_threads_up()  # so that all tasks can be cancelled
                raise AssertionError("A thread does not end, and does not wait for an agent.")
            # Its end wakes the loop up.
            return super().select(0 if timeout == 0 else left_s)
        if timeout is None:
            raise AssertionError("Everything waits, and nothing is left that could happen.")
        ready = super().select(0)
        if not ready and timeout > 0:
            self._loop.skip(timeout)
        return ready


class ManualClock:
    """Steps the virtual time of the running loop by hand.

    ::

        clock = ManualClock()
        await clock.advance(4.9)  # nothing that is due in 5 seconds has happened
        await clock.advance(0.1)  # now it has

    Awaiting something else moves the time too, but only as far as that needs: an answer that is
    there at once takes none, or the few milliseconds of its way.
    """

    def __init__(self) -> None:
        """Make one that shows 0; needs a running `VirtualTimeLoop`.

        Raises:
            ConfigurationError: another loop is running, whose time cannot be moved.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise ConfigurationError(
                "A ManualClock needs virtual time: run the test with agentray.testing.run(), or on "
                "a VirtualTimeLoop."
            )
        self._loop = loop
        self._start = loop.time()

    @property
    def now(self) -> float:
        """Seconds since it was made."""
        return self._loop.time() - self._start

    @property
    def time_of_day(self) -> datetime:
        """The time that delays and schedules go by, in UTC."""
        return self._loop.time_of_day()

    async def advance(self, seconds: float) -> None:
        """Let time pass, step by step through all that is due meanwhile, and what that sets off.

        Args:
            seconds: how far; 0 lets everything happen that can happen without time.
        """
        if seconds < 0:
            raise ValueError("Time does not go back.")
        await asyncio.sleep(seconds)
        await _settle(self._loop)


async def _settle(loop: VirtualTimeLoop) -> None:
    """Let everything happen that needs no time."""
    for _ in range(_SETTLE_STEPS):
        await asyncio.sleep(0)
        while loop.waits_for_threads:  # noqa: ASYNC110 - each turn waits for a thread's end
            await asyncio.sleep(0)


def run(
    work: Coroutine[Any, Any, T],
    *,
    at_most_s: float = 3600.0,
    start: datetime | None = None,
    threads_at_most_s: float = THREADS_AT_MOST_S,
) -> T:
    """Run a test's coroutine in virtual time.

    Args:
        work: what to run.
        at_most_s: in virtual seconds; longer is a hang.
        start: the time of day at which it begins, for delays and schedules; None: that of the
            machine.
        threads_at_most_s: in real seconds; when no thread gets on for longer, it is a hang.

    Raises:
        AssertionError: it takes longer, waits for what can never happen, or leaves tasks behind.
    """

    async def bounded() -> T:
        task = asyncio.get_running_loop().create_task(work)
        done, _ = await asyncio.wait([task], timeout=at_most_s)
        if not done:
            raise AssertionError(f"It was not done after {at_most_s:g} s of virtual time.")
        result = task.result()
        for _ in range(_SETTLE_STEPS):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            raise AssertionError(f"Tasks were left behind: {sorted(map(_told, left))}")
        return result

    def make() -> VirtualTimeLoop:
        return VirtualTimeLoop(start, threads_at_most_s=threads_at_most_s)

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(bounded())


def _told(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return f"{task.get_name()} ({getattr(coroutine, '__qualname__', coroutine)})"
