"""A run that is under way on this host: its events, who watches it, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentray.core.lifecycle import move
from agentray.errors import Fenced
from agentray.protocol.envelope import Failure, Outcome, Reply, ReplyKind
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus, Span
from agentray.runtime.scope import failure_of
from agentray.runtime.turn import Turn
from agentray.store.base import Effects, RunEnd, StateWrite, StoredRun

if TYPE_CHECKING:
    from agentray.runtime.run_book import RunBook

_INFRASTRUCTURE = frozenset({"HostDied", "ChannelClosed"})
"""Errors that say nothing about the run: it is tried again."""


SPAN_FIELDS = tuple(Span.model_fields)
"""In the order in which an `Outcome` carries them."""


class ActiveRun:
    """One attempt at a run.

    Its prompt is delivered to the agent as a message whose replies come here; the acknowledgement
    of that message, with all that it set off, is the run's end. Events become visible to watchers
    when they are in the Store, not before: what a client has seen can always be resumed from.
    """

    def __init__(self, stored: StoredRun, book: RunBook) -> None:
        self.run = stored.run
        self.agent = stored.agent
        self.active: dict[int, Turn] = {}
        self.started_at = datetime.now(UTC)
        self.marked = False  # the Store knows that it is running
        self._stored = stored
        self._book = book
        self._pending: list[RunEvent] = []  # not in the Store yet
        self._next_offset = stored.events
        self._durable = stored.events
        self._flushed = asyncio.Event()
        self._joined: list[Callable[[Run | None], None]] = []
        self._ended = False  # nothing more is written for it here
        self._told = False  # those who joined know what became of it
        self._final: Run | None = None
        if stored.events == 0:
            self.add_event("queued", {}, time=self.run.created_at)
        self.add_event("started", {"attempt": self.run.attempt, "host": book.host_id})

    # Events

    def add_event(
        self, kind: str, data: Mapping[str, Any], *, time: datetime | None = None
    ) -> None:
        """Append an event; it is written with the next flush or with the run's end."""
        event = RunEvent(
            offset=self._next_offset, kind=kind, time=time or datetime.now(UTC), data=dict(data)
        )
        self._next_offset += 1
        self._pending.append(event)

    def take_pending(self) -> Effects | None:
        """Take out the events to be written now; None: there are none."""
        if not self._pending or self._ended:
            return None
        events, self._pending = self._pending, []
        return self._effects(events={self.run.id: events})

    def written(self, count: int) -> None:
        """Note that the Store has more events now, and wake those who watch."""
        self._durable += count
        self._flushed.set()
        self._flushed = asyncio.Event()

    async def events_after(self, offset: int, wait_s: float) -> None:
        """Wait until the Store has an event above `offset`, the run ends, or `wait_s` passes."""
        if self._durable > offset + 1 or self._ended:
            return
        try:
            async with asyncio.timeout(wait_s):
                while self._durable <= offset + 1 and not self._ended:
                    await self._flushed.wait()
        except TimeoutError:
            return

    def on_end(self, callback: Callable[[Run | None], None]) -> None:
        """Call back with the ended run; None: this host has lost it, ask again."""
        if self._told:
            callback(self._final)
        else:
            self._joined.append(callback)

    # The reply sink of the prompt's message

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Take the acknowledgement of the prompt: all that it set off is done."""
        del message_id  # there is only one message
        match kind:
            case ReplyKind.MOVED:
                self.lose()
            case ReplyKind.ERROR:
                failed = failure_of(Reply(0, kind, payload), str(self.agent))
                self._book.spawn(self.end(failed))
            case _:
                self._book.spawn(self.end(outcome or Outcome()))

    async def end(self, outcome: Outcome, states: Sequence[StateWrite] = ()) -> bool:
        """Commit the run's end, and the agent's state with it, then tell everybody.

        Returns:
            False when it is tried again instead: nothing was written.

        Raises:
            Fenced: this host no longer leases the agent; nothing was written.
        """
        if self._ended:
            return False  # it was let go meanwhile
        errors = outcome.errors
        if outcome.answer is None and not errors and self._book.agents_moved(outcome.spans):
            # An agent took a part of this run with it: that nothing failed means nothing.
            await self._book.again(self, "an agent that took part has moved")
            return False
        if errors and all(error.type in _INFRASTRUCTURE for error in errors):
            await self._book.again(self, str(errors[0].message))
            return False
        status = RunStatus.FAILED if errors else RunStatus.SUCCEEDED
        result = outcome.answer[0] if outcome.answer is not None and not errors else None
        error = _run_error(errors) if errors else None
        await self.finish(status, result, error, spans=outcome.spans, states=states)
        return True

    async def finish(
        self,
        status: RunStatus,
        result: Any,
        error: RunError | None,
        *,
        spans: Sequence[tuple[Any, ...]] = (),
        states: Sequence[StateWrite] = (),
    ) -> None:
        """Commit a terminal status."""
        move(self.run.id, RunStatus.RUNNING, status)
        finished_at = datetime.now(UTC)
        run = self.run.model_copy(
            update={
                "status": status,
                "result": result,
                "error": error,
                "started_at": self.started_at,
                "finished_at": finished_at,
            }
        )
        data = {"result": result} if error is None else {"error": error.model_dump(mode="json")}
        self.add_event(status.value, data, time=finished_at)
        events, self._pending = self._pending, []
        self._ended = True
        trace = [Span.model_validate(dict(zip(SPAN_FIELDS, s, strict=True))) for s in spans]
        end = RunEnd(self.run.id, status, result, error, self.started_at, finished_at, trace)
        try:
            effects = self._effects(events={self.run.id: events}, end=end, states=states)
        except Fenced:
            self.lose()
            raise
        ended = await self._book.commit_end(self, effects, run)
        self.written(len(events))
        self._tell(ended)

    def lose(self) -> None:
        """Let go of it: another host leases the agent, and works on the run or will."""
        self._ended = True
        self._book.forget(self)
        self.written(0)
        self._tell(None)

    def hand_over(self, run: Run | None) -> None:
        """End this attempt with what a later one came to."""
        self._ended = True
        self.written(0)
        self._tell(run)

    def _tell(self, run: Run | None) -> None:
        self._told, self._final = True, run
        joined, self._joined = self._joined, []
        for callback in joined:
            callback(run)

    def _effects(
        self,
        *,
        events: Mapping[str, Sequence[RunEvent]],
        end: RunEnd | None = None,
        states: Sequence[StateWrite] = (),
    ) -> Effects:
        stored = self._stored
        pool = self._book.pool_of(stored.agent) or stored.pool  # it may have moved since
        epoch = self._book.epoch(pool, stored.slot)
        return Effects(pool, stored.slot, epoch, states, events, end)


def _run_error(errors: Sequence[Failure]) -> RunError:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return RunError(
        type=first.type, message=first.message + more, agent=first.agent or None, path=first.path
    )
