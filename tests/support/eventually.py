"""The only way that tests wait: for something to become true, never for time to pass."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_sleep = time.sleep  # noqa: TID251 - the one place in the tests that may


def eventually(check: Callable[[], T], timeout_s: float = 30.0, interval_s: float = 0.05) -> T:
    """Asks until the answer is truthy, and returns it.

    Args:
        check: what is asked; an exception of its own is not caught.
        timeout_s: for how long it is asked; it is asked at least once.
        interval_s: between two questions.

    Raises:
        AssertionError: the last answer was falsy; names the check.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(check, timeout_s, answer))
        _sleep(interval_s)
    return answer


async def eventually_async(
    check: Callable[[], Awaitable[T]], timeout_s: float = 30.0, interval_s: float = 0.05
) -> T:
    """Does as `eventually`, with a check that is awaited, on a loop that goes on meanwhile.

    Args:
        check: what is asked; an exception of its own is not caught.
        timeout_s: for how long it is asked; it is asked at least once.
        interval_s: between two questions.

    Raises:
        AssertionError: the last answer was falsy; names the check.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := await check()):
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(check, timeout_s, answer))
        await asyncio.sleep(interval_s)
    return answer


def _complaint(check: object, timeout_s: float, answer: object) -> str:
    name = getattr(check, "__qualname__", repr(check))
    return f"{name} was not true within {timeout_s:g} s: its last answer was {answer!r}"
