"""Deadlines that are to pass, on machines of any speed: a busy one is given more of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from agentray.client import ClientError

E = TypeVar("E", bound=ClientError)

_PATIENCES_S = (0.3, 2.0, 30.0)


async def fails_in_time(
    error: type[E], attempt: Callable[[float], Awaitable[Any]], match: str = ""
) -> E:
    """Check that something fails so when its patience ends, and return the error.

    A machine that is too busy to come as far as that is asked again, with more patience.

    Args:
        error: which is expected.
        attempt: what is tried, with how many seconds of patience.
        match: a part of what the error says.
    """
    others: list[ClientError] = []
    for patience_s in _PATIENCES_S:
        try:
            await attempt(patience_s)
        except ClientError as caught:
            if isinstance(caught, error) and match in str(caught):
                return caught
            others.append(caught)
        else:
            pytest.fail("It has not failed.")
    pytest.fail(f"It has failed in other ways: {others!r}")
