"""The event loop of a driver, and the time of day that it shows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a driver from its beginning to its end: `agentray.run(main())`.

    The same as `asyncio.run`, on uvloop, which the hosts use too: calls that are made many at once
    take about a third less of the driver's time on it. On Windows, where there is no uvloop, it is
    `asyncio.run`.

    Args:
        main: the driver's coroutine.

    Returns:
        What it returns.
    """
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop  # here, because importing agentray shall stay quick

    return uvloop.run(main)


@runtime_checkable
class HasTimeOfDay(Protocol):
    """An event loop whose time is its own, as in tests."""

    def time_of_day(self) -> datetime:
        """Return its time."""
        ...


def time_of_day() -> datetime:
    """Return the time in UTC; on an event loop with a time of its own, that."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # outside of any
        return datetime.now(UTC)
    return loop.time_of_day() if isinstance(loop, HasTimeOfDay) else datetime.now(UTC)
