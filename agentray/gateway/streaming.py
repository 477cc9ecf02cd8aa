"""A run's events as Server-Sent Events: what is kept first, then live, to the end.

`id:` is the event's offset, so a client that comes back with `Last-Event-ID` misses nothing and
sees nothing twice. Live events come from the run's host, before they are kept: their ids have the
attempt, too (`7.1`). Should that be lost before they are kept, the stream goes back to what has
taken their place, also where the client comes back to another replica. Ends are shown when they are
kept. Where the host cannot be asked, the Store tells what there is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing

from pydantic import TypeAdapter

from agentray.core.lifecycle import TERMINAL
from agentray.errors import AddressError, AgentrayError, CallError
from agentray.gateway.problems import MALFORMED, HttpProblem
from agentray.gateway.streamed import Streamed
from agentray.ids import AgentId
from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import Run, RunEvent
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.run_cursor import events_after
from agentray.store.base import Store

logger = logging.getLogger(__name__)

KEEPALIVE_S = 10.0
"""Proxies close connections on which nothing comes for a while; 30 s is a common limit."""

_PAUSE_S = 0.25
"""Between two looks at a run that no host works on, or whose host cannot be asked."""

_TERMINAL_KINDS = frozenset(status.value for status in TERMINAL)
_KEEPALIVE = b": keepalive\n\n"
_to_json = TypeAdapter(RunEvent).dump_json

_MAX_WRITE = 65_536
"""Bytes that are written at once: what came together is one piece of the answer, as its way to the
client costs the same for one event and for ten."""


def parse_last_event_id(value: str | None) -> Cursor:
    """Return where to go on.

    Raises:
        HttpProblem: 400, it is not the id of an event.
    """
    cursor = Cursor() if value is None else Cursor.parse(value)
    if cursor is None:
        detail = f"Last-Event-ID {(value or '')[:40]!r} is not the id of an event."
        raise HttpProblem(MALFORMED, detail)
    return cursor


def as_sse(event: RunEvent) -> bytes:
    """Write an event in the form of Server-Sent Events."""
    event_id = str(Cursor.at(event)).encode()
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id, event.kind.encode(), _to_json(event))


def _written(events: Sequence[RunEvent]) -> Iterator[bytes]:
    """Yield what is written of events that came together; of none, a sign of life."""
    if not events:
        yield _KEEPALIVE
    waiting: list[bytes] = []
    size = 0
    for event in events:
        waiting.append(as_sse(event))
        size += len(waiting[-1])
        if size >= _MAX_WRITE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _retrieve(task: asyncio.Task[list[RunEvent]]) -> None:
    if not task.cancelled():
        task.exception()


class RunStreams:
    """Follows runs."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def response(
        self, run: Run, cursor: Cursor, headers: dict[str, str], *, begins: bool = False
    ) -> Streamed:
        """Answer with a run's events to its end.

        Args:
            run: the run, as it is now.
            cursor: the last event that the client has.
            headers: further headers.
            begins: it was given to its host a moment ago, which is asked at once, together with
                that.
        """
        first = None
        if begins:
            asked = self._dispatcher.watch(AgentId.parse(run.agent), run.id, cursor, KEEPALIVE_S)
            first = asyncio.create_task(asked, name=f"first events of {run.id}")
            first.add_done_callback(_retrieve)  # its client may be gone before it is looked at
        return Streamed(
            self._chunks(run, cursor, first),
            media_type="text/event-stream",
            # nginx would collect the events otherwise.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers},
        )

    async def _chunks(
        self, run: Run, cursor: Cursor, first: asyncio.Task[list[RunEvent]] | None
    ) -> AsyncGenerator[bytes]:
        try:
            async for events in self._follow(run, cursor, first):
                for chunk in _written(events):
                    yield chunk
        except AgentrayError as error:
            # The status is sent already. The stream ends before its terminal event, so the client
            # comes back with Last-Event-ID and is told what is wrong.
            logger.warning(
                "events end early: %s", error, extra={"action": "events_cut", "run": run.id}
            )

    async def follow(self, run: Run, cursor: Cursor) -> AsyncGenerator[RunEvent | None]:
        """Yield the events of a run after those seen until the terminal one.

        None is a sign of life: nothing happened for `KEEPALIVE_S`.

        Raises:
            StoreUnavailable: they cannot be read now.
        """
        async with aclosing(self._follow(run, cursor)) as batches:
            async for events in batches:
                if not events:
                    yield None
                for event in events:
                    yield event

    async def _follow(
        self, run: Run, cursor: Cursor, first: asyncio.Task[list[RunEvent]] | None = None
    ) -> AsyncGenerator[list[RunEvent]]:
        """Yield what came together; [] is a sign of life."""
        agent = AgentId.parse(run.agent)
        ended = run.status in TERMINAL
        quiet_since = time.monotonic()
        while True:
            if ended:
                events = await events_after(self._store, run.id, cursor)
            else:
                asked = first or self._dispatcher.watch(agent, run.id, cursor, KEEPALIVE_S)
                events, first = await self._live(run.id, cursor, asked), None
            if events:
                yield events
                if events[-1].kind in _TERMINAL_KINDS:
                    return
                cursor = Cursor.at(events[-1])
                quiet_since = time.monotonic()
                continue
            if ended:
                break
            if time.monotonic() - quiet_since >= KEEPALIVE_S:
                quiet_since = time.monotonic()
                yield []
            stored = await self._store.get_run(run.id)
            ended = stored is None or stored.run.status in TERMINAL
        if (closing := await self._closing(run.id, cursor.offset)) is not None:
            yield [closing]

    async def _live(
        self, run_id: str, cursor: Cursor, asked: Awaitable[list[RunEvent]]
    ) -> list[RunEvent]:
        """Return what comes next; [] after a while, in which nothing has."""
        begun = time.monotonic()
        try:
            events = await asked
        except (CallError, AddressError):
            # Its host is being replaced, or does not have the run yet.
            events = await events_after(self._store, run_id, cursor)
        if not events and time.monotonic() - begun < _PAUSE_S:
            # No host works on it: it waits for an answer, or for its time, or its host is away.
            await asyncio.sleep(_PAUSE_S)
        return events

    async def _closing(self, run_id: str, after: int) -> RunEvent | None:
        """Return a terminal event for a run that ended without one: its host did not end it."""
        stored = await self._store.get_run(run_id)
        if stored is None or stored.run.status not in TERMINAL or after >= stored.events:
            return None
        last = await self._store.run_events(run_id, after=stored.events - 2, limit=1)
        if last and last[0].kind in _TERMINAL_KINDS:
            return None  # the client has it already
        run = stored.run
        return RunEvent(
            offset=stored.events,
            kind=run.status.value,
            time=run.finished_at or run.created_at,
            data={"error": run.error.model_dump(mode="json")} if run.error else {},
        )
