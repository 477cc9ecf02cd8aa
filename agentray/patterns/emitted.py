"""What a user's function returned or yields, as a list of events."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping
from types import CoroutineType
from typing import Any, cast

from agentray.errors import PayloadError
from agentray.events import Event


async def emitted(result: Any, who: str, into: list[Event] | None = None) -> list[Event]:
    """Return the events of what a function returned: one, many, none, awaited or yielded.

    Args:
        result: what calling it gave.
        who: the function, for errors.
        into: where the events are put; after an error it has those that came before it.

    Raises:
        PayloadError: it is something else.
        Exception: whatever the function raised.
    """
    events: list[Event] = [] if into is None else into
    if type(result) is CoroutineType or inspect.isawaitable(result):
        result = cast("object", await result)
    if result is None:
        return events
    if isinstance(result, Event):
        events.append(result)
    elif isinstance(result, AsyncIterable):
        async for item in cast("AsyncIterable[Any]", result):
            events.append(_event(item, who))  # noqa: PERF401 - what came before an error is kept
    elif _is_many(result):
        for item in cast("Iterable[Any]", result):
            events.append(_event(item, who))  # noqa: PERF401 - as above
    else:
        events.append(_event(result, who))
    return events


def _is_many(result: object) -> bool:
    # Events, as all pydantic models, are iterable as well: they give their fields.
    return isinstance(result, Iterable) and not isinstance(result, Event | str | bytes | Mapping)


def _event(item: object, who: str) -> Event:
    if not isinstance(item, Event):
        raise PayloadError(
            f"{who} returned {type(item).__name__}: it returns events, lists of events, or None."
        )
    return item
