"""The event loop of a driver, and the time of day that it shows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast

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
    # Looked up by name: `isinstance` of a protocol takes ten times as long, on every prompt's way.
    own = cast("Callable[[], datetime] | None", getattr(loop, "time_of_day", None))
    return datetime.now(UTC) if own is None else own()
