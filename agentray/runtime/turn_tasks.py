"""The tasks in which a host's agents take their turns; each is used again and again.

A task per message would take longer to make than a short handler runs: with these, calls to many
agents cost their host a quarter less. What is ready in one turn of the event loop is handled by one
task, one after the other. When a handler waits, its task waits with it, and another task goes on
with the rest in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from agentray.ids import AgentId
from agentray.runtime.event_turns import is_short, take_events
from agentray.runtime.flight_record import FlightRecord

if TYPE_CHECKING:
    from agentray.runtime.incarnation import Incarnation
    from agentray.runtime.turn import Turn

_AT_ONCE = 32
"""Agents that get a turn before the event loop does other things."""

_TRIED_S = 30.0
"""How long a suspect has its turn alone at most, before the next one has one beside it."""

_ALL_TRIED_S = 45.0
"""How long it takes at most until all suspects have turns: where they are many, each is alone for a
shorter time. Those that are left when a host dies again are fewer."""

_MOST_IDLE = 256
"""Tasks that are kept for later while they have nothing to do."""


class TurnTasks:
    """Runs turns as soon as the event loop comes to it, in the order in which they came."""

    def __init__(self, loop: asyncio.AbstractEventLoop, record: FlightRecord) -> None:
        self._loop = loop
        self.record = record
        self._cells: dict[asyncio.Task[Any], int] = {}  # of the record, for turns that wait
        self._last: asyncio.Task[Any] | None = None  # that ran turns
        self.suspects: Mapping[AgentId, bool] = {}  # and whether one at a time has turns
        self.proved: set[AgentId] = set()  # of them, those that have had one, and the host lives
        self._alone = asyncio.Lock()
        self._tried: Incarnation | None = None
        self._context = copy_context()  # agents see nothing of what a sender has in its own
        self._ready: deque[tuple[Incarnation, Turn, bool]] = deque()
        self._tasks: dict[asyncio.Task[Any], Incarnation | None] = {}  # and whose turn each runs
        self._idle: list[asyncio.Future[None]] = []
        self._called = False  # a task, or `_go_on`, will look at what is ready; true while any is
        self._round = 0
        self._closed = False  # a handler may have kept to itself that its task was cancelled

    def run(self, agent: Incarnation, turn: Turn, *, reentrant: bool) -> None:
        """Let an agent take a turn, and those that wait behind it; see `Incarnation.take`."""
        if self._closed:
            return  # a handler that was cancelled goes on to send: its host is gone
        self._ready.append((agent, turn, reentrant))
        if not self._called:
            self._called = True
            self._call()

    def _call(self) -> None:
        """Let a task look at what is ready."""
        while self._idle:
            called = self._idle.pop()
            if not called.done():  # else somebody has cancelled a task that was no longer theirs
                called.set_result(None)
                return
        task = self._context.copy().run(self._loop.create_task, self._work())
        self._tasks[task] = None

    async def _work(self) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
        try:
            while await self._take_round(task) and not self._closed:
                if len(self._idle) >= _MOST_IDLE:
                    return
                called = self._loop.create_future()
                self._idle.append(called)
                await called
        finally:
            del self._tasks[task]
            self._release(task)

    async def _take_round(self, task: asyncio.Task[Any]) -> bool:
        """Run what is ready; return whether the task is as it was before, and can be used again."""
        self._loop.call_soon(self._go_on)
        ready, this_round, record = self._ready, self._round, self.record
        tasks, cells, suspects = self._tasks, self._cells, self.suspects
        self._last = task
        for _ in range(_AT_ONCE):
            if not ready or self._round != this_round:
                break  # in a later one, another task has been called
            agent, turn, reentrant = ready.popleft()
            tasks[task] = agent
            record.begin(agent.mark)
            if suspects and agent.id in suspects:
                await self._try(agent, turn, task, reentrant=reentrant)
            elif not reentrant and is_short(agent, turn):
                await take_events(agent, turn, task)
            else:
                await agent.take(turn, task, reentrant=reentrant)
            tasks[task] = None
            if cells and task in cells:
                self._release(task)
            # Neither a cancellation nor what a handler left in its context may reach the next one.
            if task.cancelling() or copy_context() != self._context:
                return False
        record.rest()
        return True

    async def _try(
        self, agent: Incarnation, turn: Turn, task: asyncio.Task[Any], *, reentrant: bool
    ) -> None:
        """Let a suspect have a turn, and if it is tried alone, when no other one is."""
        tried = self._tried
        # Beside its own turns, and those that wait for it: what one of them waits for would else
        # wait for them.
        beside = tried is not None and (tried is agent or tried.id in turn.envelope.chain)
        if beside or not self.suspects.get(agent.id):
            await agent.take(turn, task, reentrant=reentrant)
            self.proved.add(agent.id)
            return
        self.record.rest()
        self._cells[task] = 0  # what only waits is not under way
        await self._alone.acquire()
        self._cells[task] = self.record.keep(agent.mark)
        self._tried = agent
        hold_s = min(_ALL_TRIED_S / max(sum(self.suspects.values()), 1), _TRIED_S)
        over = self._loop.call_later(hold_s, self._next_suspect, agent)
        try:
            await agent.take(turn, task, reentrant=reentrant)
            self.proved.add(agent.id)
        finally:
            over.cancel()
            self._next_suspect(agent)

    def _next_suspect(self, agent: Incarnation) -> None:
        """Let another suspect have a turn: this one has ended, or takes its time."""
        if self._tried is agent:
            self._tried = None
            self._alone.release()

    def _release(self, task: asyncio.Task[Any]) -> None:
        self.record.release(self._cells.pop(task, 0))

    def _go_on(self) -> None:
        """Call the next task when the last one waits, or has done enough at once."""
        self._round += 1
        self.record.rest()
        last = self._last
        if last is not None and last not in self._cells:
            agent = self._tasks.get(last)
            if agent is not None:
                self._cells[last] = self.record.keep(agent.mark)
        self._called = bool(self._ready)
        if self._called:
            self._call()

    def agents(self) -> set[Incarnation]:
        """Return the agents that have turns, under way or ready."""
        ready = {entry[0] for entry in self._ready}
        return ready.union(agent for agent in self._tasks.values() if agent is not None)

    def waits(self, agent: Incarnation) -> bool:
        """Whether a turn of an agent is ready, and has not begun."""
        return any(entry[0] is agent for entry in self._ready)

    def cancel(self, agent: Incarnation) -> None:
        """Cancel the turns of an agent that have begun."""
        for task, whose in self._tasks.items():
            if whose is agent:
                task.cancel()

    async def close(self) -> None:
        """Cancel everything, and return when it has ended."""
        self._closed = True
        self._ready.clear()
        self._idle.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
