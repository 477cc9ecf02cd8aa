"""A run's events as Server-Sent Events: what is kept first, then live, to the end.

`id:` is the event's offset, so a client that comes back with `Last-Event-ID` misses nothing and
sees nothing twice. Live events come from the run's host; where it cannot be asked, from the Store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from agentray.core.lifecycle import TERMINAL
from agentray.errors import AddressError, AgentrayError, CallError
from agentray.gateway.problems import MALFORMED, HttpProblem
from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import Store

logger = logging.getLogger(__name__)

KEEPALIVE_S = 10.0
"""Proxies close connections on which nothing comes for a while; 30 s is a common limit."""

_PAUSE_S = 0.25  # between two looks at the Store while the run's host cannot be asked
_WAITING_PAUSE_S = 0.5
"""Between two looks at a run that waits for an answer. People take longer than that."""

_TERMINAL_KINDS = frozenset(status.value for status in TERMINAL)
_KEEPALIVE = b": keepalive\n\n"
_to_json = TypeAdapter(RunEvent).dump_json


def parse_last_event_id(value: str | None) -> int:
    """Return the offset after which to go on, -1 for the beginning.

    Raises:
        HttpProblem: 400, it is not the id of an event.
    """
    if value is None:
        return -1
    # Not longer than a 63-bit number: the Store has no larger offsets.
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise HttpProblem(MALFORMED, f"Last-Event-ID {value[:40]!r} is not the id of an event.")
    return int(value)


def as_sse(event: RunEvent) -> bytes:
    """Write an event in the form of Server-Sent Events."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.offset, event.kind.encode(), _to_json(event))


class RunStreams:
    """Follows runs."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def response(self, run: Run, after: int, headers: dict[str, str]) -> StreamingResponse:
        """Answer with a run's events to its end.

        Args:
            run: the run, as it is now.
            after: offset of the last event that the client has, -1 for none.
            headers: further headers.
        """
        return StreamingResponse(
            self._chunks(run, after),
            media_type="text/event-stream",
            # nginx would collect the events otherwise.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers},
        )

    async def _chunks(self, run: Run, after: int) -> AsyncIterator[bytes]:
        try:
            async for event in self.follow(run, after):
                yield _KEEPALIVE if event is None else as_sse(event)
        except AgentrayError as error:
            # The status is sent already. The stream ends before its terminal event, so the client
            # comes back with Last-Event-ID and is told what is wrong.
            logger.warning(
                "events end early: %s", error, extra={"action": "events_cut", "run": run.id}
            )

    async def follow(self, run: Run, after: int) -> AsyncIterator[RunEvent | None]:
        """Yield the events of a run after an offset until the terminal one.

        None is a sign of life: nothing happened for `KEEPALIVE_S`.

        Raises:
            StoreUnavailable: they cannot be read now.
        """
        agent = AgentId.parse(run.agent)
        ended = run.status in TERMINAL
        while True:
            if ended:
                events = await self._store.run_events(run.id, after=after)
            else:
                events = await self._live(agent, run.id, after)
            for event in events:
                yield event
                if event.kind in _TERMINAL_KINDS:
                    return
                after = event.offset
            if not events:
                if ended:
                    break
                yield None
                stored = await self._store.get_run(run.id)
                ended = stored is None or stored.run.status in TERMINAL
                if stored is not None and stored.run.status == RunStatus.WAITING:
                    await asyncio.sleep(_WAITING_PAUSE_S)  # no host is there to tell
        async for event in self._closing(run.id, after):
            yield event

    async def _live(self, agent: AgentId, run_id: str, after: int) -> list[RunEvent]:
        try:
            return await self._dispatcher.watch(agent, run_id, after, KEEPALIVE_S)
        except (CallError, AddressError):
            # Its host is being replaced, or does not have the run yet.
            events = await self._store.run_events(run_id, after=after)
            if not events:
                await asyncio.sleep(_PAUSE_S)
            return events

    async def _closing(self, run_id: str, after: int) -> AsyncIterator[RunEvent]:
        """Yield a terminal event for a run that ended without one: its host did not end it."""
        stored = await self._store.get_run(run_id)
        if stored is None or stored.run.status not in TERMINAL or after >= stored.events:
            return
        last = await self._store.run_events(run_id, after=stored.events - 2, limit=1)
        if last and last[0].kind in _TERMINAL_KINDS:
            return  # the client has it already
        run = stored.run
        yield RunEvent(
            offset=stored.events,
            kind=run.status.value,
            time=run.finished_at or run.created_at,
            data={"error": run.error.model_dump(mode="json")} if run.error else {},
        )
