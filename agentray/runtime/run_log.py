"""The events of a run that is under way: kept in order, written in batches, watched.

What happens is shown to those who follow the run at once, and written every few milliseconds:
until then it is provisional, and says so. Ends are shown when they are written, not before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agentray.errors import PayloadError
from agentray.event_loop import time_of_day
from agentray.events import Event
from agentray.protocol.event_runs import NOT_KEPT
from agentray.protocol.runs import EventKind, RunEvent
from agentray.protocol.trusted import trusted
from agentray.store.steps import NewRunEvent

MAX_RECORDED = 10_000
"""Published events that are kept of one run; the others are counted."""

EVENT = EventKind.EVENT.value
"""The kind of a run event that is a published event."""

MAX_TEXT = 16_384
"""Characters of one text event: what is said beyond that begins another one."""

GATHER_S = 0.005
"""How long what is said after a text that was shown is gathered, to be shown as one event."""

BEGIN_S = 0.003
"""How long what follows an attempt's beginning is waited for, to be shown together with it."""

_REMEMBERED = 64
"""Events in the Store that are remembered here: who keeps up never has to read them there."""


class _Entry:
    """One event on its way."""

    __slots__ = ("agent", "data", "event", "final", "kind", "size", "texts", "time")

    def __init__(
        self, kind: str, data: Mapping[str, Any] | Event, time: datetime, *, final: bool = False
    ) -> None:
        self.kind, self.data, self.time, self.final = kind, data, time, final
        self.event: RunEvent | None = None  # once somebody has seen it: then it grows no more
        self.texts: list[str] = []  # that an agent has said
        self.agent = ""
        self.size = 0

    def takes(self, agent: str, text: str) -> bool:
        """Whether it is a text of this agent's that nobody has seen yet, and has room."""
        fits = self.size + len(text) <= MAX_TEXT
        return bool(self.texts) and self.event is None and self.agent == agent and fits

    def content(self) -> dict[str, Any]:
        """Return its data as JSON values."""
        if self.texts:
            return {"text": "".join(self.texts), "agent": self.agent}
        return _as_data(self.data)


class RunLog:
    """Events of one run.

    What is published is turned into JSON when it is written or shown, not while a handler waits.
    """

    def __init__(self, stored: int, *, durable: bool, attempt: int = 1, exact: bool = True) -> None:
        """Continue a log.

        Args:
            stored: how many events are in the Store.
            durable: the run is in the Store; else all events are kept here until its end.
            attempt: the attempt that makes them.
            exact: offsets are given here; else the Store gives them, and shows what it has.
        """
        self._durable = durable
        self._attempt = attempt
        self._exact = exact
        self._entries: list[_Entry] = []
        self._first = stored  # offset of the first entry
        self._taken = stored  # and on their way to the Store
        self.stored = stored
        """How many are in the Store."""
        self._over = False
        self._recorded = 0
        self.unrecorded = 0  # beyond the limit
        self._begun = 0  # the offset after the beginning of an attempt
        self._said_at = -1.0  # when a text was shown last, in seconds of the event loop's clock
        self._changed: asyncio.Event | None = None
        self._ending: asyncio.Event | None = None

    def add(
        self,
        kind: str,
        data: Mapping[str, Any] | Event,
        time: datetime | None = None,
        *,
        final: bool = False,
    ) -> None:
        """Append an event.

        Args:
            kind: which.
            data: its content.
            time: when it happened; None: now.
            final: it is shown when it is written, not before, and so is what follows it.
        """
        self._append(_Entry(kind, data, time or time_of_day(), final=final))
        if kind == EventKind.STARTED:
            self._begun = self._next

    def add_text(self, agent: str, text: str) -> None:
        """Append what an agent says, to the last event if that is a text which nobody has seen."""
        last = self._entries[-1] if self._next > self._taken else None
        if last is None or not last.takes(agent, text):
            last = _Entry(EventKind.TEXT_DELTA.value, {}, time_of_day())
            last.agent = agent
            self._append(last)
        last.texts.append(text)
        last.size += len(text)

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._wake()

    def record(self, event: Event | Mapping[str, Any]) -> None:
        """Append a published event, unless there are too many."""
        if self._recorded < MAX_RECORDED:
            self._recorded += 1
            self.add(EVENT, event)
        else:
            self.unrecorded += 1

    @property
    def _next(self) -> int:
        """The offset of the event that comes next."""
        return self._first + len(self._entries)

    # Writing

    def __bool__(self) -> bool:
        """Whether something is to be written."""
        return self._next > self._taken

    @property
    def only_begun(self) -> bool:
        """Whether nothing is to be written but that an attempt has begun."""
        return self._taken < self._begun == self._next

    def take(self) -> list[RunEvent]:
        """Take out what is to be written."""
        first, self._taken = self._taken, self._next
        return [self._event(offset) for offset in range(first, self._taken)]

    def take_new(self) -> list[NewRunEvent]:
        """Take out what is to be written where the Store gives the offsets."""
        entries, self._entries = self._entries, []
        return [NewRunEvent(entry.kind, entry.time, entry.content()) for entry in entries]

    def kept(self) -> list[RunEvent]:
        """Return all events of a run that is not in the Store."""
        return [self._event(offset) for offset in range(self._first, self._next)]

    def written(self, count: int) -> None:
        """Note that the Store has more events now, and wake those who watch."""
        self.stored += count
        if (surplus := self.stored - self._first - _REMEMBERED) > 0:
            del self._entries[:surplus]
            self._first += surplus
        self._wake()

    def written_to(self, count: int) -> None:
        """Note how many events the Store has now, which gives the offsets."""
        if count > self.stored:
            self.stored = self._first = self._taken = count
            self._wake()

    def _event(self, offset: int) -> RunEvent:
        entry = self._entries[offset - self._first]
        if entry.event is None:
            # Past the validation: these are our own.
            entry.event = trusted(
                RunEvent,
                {
                    "offset": offset,
                    "kind": entry.kind,
                    "time": entry.time,
                    "data": entry.content(),
                    "attempt": None,
                },
            )
        return entry.event

    # Watching

    def end(self) -> None:
        """Nothing is added any more."""
        self._over = True
        if self._ending is not None:
            self._ending.set()
        self._wake()

    def shown(self, after: int, limit: int, *, live: bool) -> list[RunEvent] | None:
        """Return events above an offset; None: they are not remembered, the Store has them.

        Args:
            after: the offset; -1 for all.
            limit: most of them.
            live: also what is not in the Store yet, as provisional events.
        """
        first, end = after + 1, self._end(live=live)
        if first < self._first or not self._exact:
            return None
        events: list[RunEvent] = []
        for offset in range(first, min(end, first + limit)):
            event = self._event(offset)
            if self._durable and offset >= self.stored:
                event = event.model_copy(update={"attempt": self._attempt})
            events.append(event)
        if live and events and events[-1].kind == EventKind.TEXT_DELTA:
            self._said_at = asyncio.get_running_loop().time()
        return events

    async def after(self, offset: int, wait_s: float, *, live: bool = False) -> None:
        """Wait until there is an event above `offset`, the log ends, or `wait_s` passes.

        Args:
            offset: of the last event that was seen.
            wait_s: the longest wait.
            live: also for what is not in the Store yet. What is said right after a text that was
                shown is gathered for some milliseconds.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._until_there(offset, live=live)
                if live and offset + 1 < self._begun == self._end(live=True):
                    await self._until_more(self._begun - 1)
                gather_s = self._said_at + GATHER_S - asyncio.get_running_loop().time()
                if live and gather_s > 0 and not self._over:
                    await self._gather(gather_s)
        except TimeoutError:
            return

    async def _until_more(self, offset: int) -> None:
        """Wait a moment for what follows: who was shown the beginning would have to ask again."""
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._until_there(offset, live=True)
        except TimeoutError:
            return

    async def _gather(self, wait_s: float) -> None:
        """Wait for what is said next, unless the log ends before."""
        if self._ending is None:
            self._ending = asyncio.Event()
        try:
            async with asyncio.timeout(wait_s):
                await self._ending.wait()
        except TimeoutError:
            return

    async def _until_there(self, offset: int, *, live: bool) -> None:
        while self._end(live=live) <= offset + 1 and not self._over:
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _end(self, *, live: bool) -> int:
        """Return the offset up to which events are shown."""
        if not self._durable:
            return self._next
        if not (live and self._exact):
            return self.stored
        for offset in range(self.stored, self._next):
            if self._entries[offset - self._first].final:
                return offset
        return self._next

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


def as_recorded_text(event: Event) -> str:
    """Return the text of `as_recorded`."""
    try:
        return event.to_json_text()
    except PayloadError:
        return json.dumps(as_recorded(event))


def _as_data(data: Mapping[str, Any] | Event) -> dict[str, Any]:
    return as_recorded(data) if isinstance(data, Event) else dict(data)
