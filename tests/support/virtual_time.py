"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Waits of seconds take no time, in the same order whatever machine it is, and what would wait for
ever is found at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For coroutines that wait for each other and for time, not for files or threads."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("Everything waits, and nothing is left that could happen.")
        ready = super().select(0)
        if not ready and timeout > 0:
            self._loop.skip(timeout)
        return ready


def run(work: Coroutine[Any, Any, T], *, at_most_s: float = 3600.0) -> T:
    """Run a coroutine in virtual time.

    Args:
        work: what to run.
        at_most_s: in virtual seconds; longer is a hang.

    Raises:
        AssertionError: it takes longer, or waits for nothing.
    """

    async def bounded() -> T:
        task = asyncio.ensure_future(work)  # noqa: TID251 - awaited right here
        done, _ = await asyncio.wait([task], timeout=at_most_s)
        assert done, f"It was not done after {at_most_s:g} s of virtual time."
        return task.result()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(bounded())
