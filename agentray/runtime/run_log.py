"""The events of a run that is under way: kept in order, written in batches, watched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentray.errors import PayloadError
from agentray.events import Event
from agentray.protocol.event_runs import NOT_KEPT
from agentray.protocol.runs import RunEvent
from agentray.store.steps import NewRunEvent

MAX_RECORDED = 10_000
"""Published events that are kept of one run; the others are counted."""

EVENT = "event"
"""The kind of a run event that is a published event."""


class RunLog:
    """Events of one run. Those of a run in the Store are seen when they are there, not before.

    What is published is turned into JSON when it is written, not while a handler waits.
    """

    def __init__(self, stored: int, *, durable: bool) -> None:
        """Continue a log.

        Args:
            stored: how many events are in the Store.
            durable: the run is in the Store; else all events are kept here until its end.
        """
        self._durable = durable
        self._taken = stored  # and on their way to the Store
        self._visible = stored
        self._over = False
        self._recorded = 0
        self.unrecorded = 0  # beyond the limit
        self._waiting: list[tuple[str, datetime, Mapping[str, Any] | Event]] = []
        self._kept: list[RunEvent] = []  # of a run that is not in the Store
        self._changed: asyncio.Event | None = None

    def add(self, kind: str, data: Mapping[str, Any] | Event, time: datetime | None = None) -> None:
        """Append an event."""
        self._waiting.append((kind, time or datetime.now(UTC), data))
        if not self._durable:
            self._visible += 1
            self._wake()

    def record(self, event: Event | Mapping[str, Any]) -> None:
        """Append a published event, unless there are too many."""
        if self._recorded < MAX_RECORDED:
            self._recorded += 1
            self.add(EVENT, event)
        else:
            self.unrecorded += 1

    def __bool__(self) -> bool:
        """Whether something is to be written."""
        return bool(self._waiting)

    def take(self) -> list[RunEvent]:
        """Take out what is to be written."""
        waiting, self._waiting = self._waiting, []
        first = self._taken
        self._taken += len(waiting)
        return [
            RunEvent(offset=first + n, kind=kind, time=time, data=_as_data(data))
            for n, (kind, time, data) in enumerate(waiting)
        ]

    def take_new(self) -> list[NewRunEvent]:
        """Take out what is to be written where the Store gives the offsets."""
        waiting, self._waiting = self._waiting, []
        return [NewRunEvent(kind, time, _as_data(data)) for kind, time, data in waiting]

    def kept(self) -> list[RunEvent]:
        """Return all events of a run that is not in the Store."""
        self._kept += self.take()
        return self._kept

    # Watching

    def written(self, count: int) -> None:
        """Note that the Store has more events now, and wake those who watch."""
        self._visible += count
        self._wake()

    def written_to(self, count: int) -> None:
        """Note how many events the Store has now."""
        if count > self._visible:
            self._visible = count
            self._wake()

    def end(self) -> None:
        """Nothing is added any more."""
        self._over = True
        self._wake()

    async def after(self, offset: int, wait_s: float) -> None:
        """Wait until there is an event above `offset`, the log ends, or `wait_s` passes."""
        try:
            async with asyncio.timeout(wait_s):
                while self._visible <= offset + 1 and not self._over:
                    if self._changed is None:
                        self._changed = asyncio.Event()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


def as_recorded(event: Event) -> dict[str, Any]:
    """Return a published event as it is kept; one without a JSON form is kept with the reason."""
    try:
        return event.to_json()
    except PayloadError as error:
        return {"event_type": event.event_type, "event_id": event.event_id, NOT_KEPT: str(error)}


def _as_data(data: Mapping[str, Any] | Event) -> dict[str, Any]:
    return as_recorded(data) if isinstance(data, Event) else dict(data)
