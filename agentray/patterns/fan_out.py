"""Doing the same with many, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from agentray.errors import ConfigurationError, DeadlineExceeded

T = TypeVar("T")
R = TypeVar("R")


@overload
async def gather(
    items: Iterable[T],
    call: Callable[[T], Awaitable[R]],
    *,
    limit: int = 64,
    timeout: float | None = None,
    on_error: Literal["raise"] = "raise",
) -> list[R]: ...
@overload
async def gather(
    items: Iterable[T],
    call: Callable[[T], Awaitable[R]],
    *,
    limit: int = 64,
    timeout: float | None = None,
    on_error: Literal["collect"],
) -> list[R | Exception]: ...
async def gather(
    items: Iterable[T],
    call: Callable[[T], Awaitable[R]],
    *,
    limit: int = 64,
    timeout: float | None = None,
    on_error: Literal["raise", "collect"] = "raise",
) -> list[Any]:
    """Call something with each item, `limit` at once, and return what came of each, in their order.

    ::

        answers = await gather(handles, lambda handle: handle.ask("ready?"))

    Args:
        items: handles, or anything else; taken as they are needed.
        call: what is awaited for each.
        limit: of calls at once.
        timeout: seconds for each call; None: as long as it takes.
        on_error: `raise` the first error, once all other calls were cancelled and have ended; or
            `collect`: an item's error stands in its place.

    Raises:
        ConfigurationError: the limit is less than 1, or on_error is something else.
        DeadlineExceeded: a call took too long.
        Exception: what a call raised.
    """
    if limit < 1:
        raise ConfigurationError(f"gather(limit={limit}): at least one call at once.")
    if str(on_error) not in ("raise", "collect"):
        raise ConfigurationError(f"gather(on_error={on_error!r}): write 'raise' or 'collect'.")
    results: dict[int, Any] = {}
    failed: list[Exception] = []
    numbered = enumerate(items)

    async def work() -> None:
        for index, item in numbered:
            try:
                results[index] = await _within(timeout, call, item, index)
            except Exception as error:
                if on_error == "raise":
                    failed.append(error)
                    raise
                results[index] = error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(work())
    except ExceptionGroup as errors:
        # What is left is of the items themselves: their iterator failed.
        error = failed[0] if failed else errors.exceptions[0]
    else:
        return [results[index] for index in sorted(results)]
    raise error


async def _within(
    timeout: float | None, call: Callable[[T], Awaitable[R]], item: T, index: int
) -> R:
    patience = asyncio.timeout(timeout)
    try:
        async with patience:
            return await call(item)
    except TimeoutError:
        if patience.expired():
            raise DeadlineExceeded(f"Item {index} ({item!r:.100})", timeout) from None
        raise
