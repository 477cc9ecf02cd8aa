"""Savepoints: a call chain that comes back to an agent is one transaction of it.

The turn that the chain began with waits, with changes that are not committed, while a re-entrant
one is handled. The re-entrant one fails: the state goes back to what it was when it began. It
succeeds: the outermost one's commit covers it. Turns that do not come back pay nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentray.errors import Fenced
from agentray.protocol.envelope import Kind
from agentray.runtime import state as states

if TYPE_CHECKING:
    from agentray.ids import AgentId
    from agentray.runtime.incarnation import Incarnation
    from agentray.runtime.turn import Turn

_TELL, _STREAM = int(Kind.TELL), int(Kind.STREAM)

UNDONE_S = 1.0
"""How long a handler is not told that the deadline of a call of it has passed, while what that call
came back with is being undone."""

_UNDONE_LATE_S = UNDONE_S / 2
"""How long after a deadline every handler on the way still waits, however late it heard of it."""

_HARDLY_IN_TIME_S = 0.05
"""How long a message may take to arrive whose sender hears of its deadline before."""


class Savepoint:
    """What a re-entrant turn found.

    Attributes:
        turn: which found it.
        outer: the turn whose commit covers it, as long as that goes on.
        overlaps: others change the state while it is handled: going back would undo their work.
        awaited: the waiting handlers do not go on before it has ended, whatever its deadline.
    """

    __slots__ = ("_agent", "_data", "_ended", "_state", "awaited", "outer", "overlaps", "turn")

    def __init__(self, agent: Incarnation, turn: Turn, outer: Turn) -> None:
        """Take it.

        Raises:
            StateRefused: what the turns before it have left cannot be kept, so nor be restored.
        """
        self._agent = agent
        self.turn = turn
        self._data = agent.checked_state()
        self._state = agent.agent.state if agent.type.state_model is not None else None
        self.outer = outer
        self.awaited = False
        self._ended: asyncio.Future[None] | None = None
        # Nobody's turn waits for a tell, nor for what begins when its deadline has passed.
        left_s = _HARDLY_IN_TIME_S
        if turn.deadline is not None:
            left_s = turn.deadline - agent.host.loop.time()
        self.overlaps = turn.envelope.kind == _TELL or left_s < _HARDLY_IN_TIME_S

    def is_below(self, chain: tuple[AgentId, ...]) -> bool:
        """Whether its turn came with a call that has gone this way."""
        return self.turn.envelope.chain[: len(chain)] == chain

    def until_ended(self) -> asyncio.Future[None]:
        """Return what ends with its turn."""
        if self._ended is None:
            self._ended = self._agent.host.loop.create_future()
        return self._ended

    def end(self) -> None:
        """Note that its turn has ended."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def contains(self, turn: Turn) -> bool:
        """Whether its own turn waits for this one."""
        chain = (*self.turn.envelope.chain, self._agent.id)
        return turn.envelope.chain[: len(chain)] == chain

    def check(self) -> None:
        """Check what its turn leaves, which is committed later.

        Raises:
            StateRefused: it cannot be kept.
            Fenced: the agent lives elsewhere.
        """
        agent = self._agent
        if agent.checked_state() != self._data and agent.host.find(agent.id) is not agent:
            raise Fenced

    def go_back(self) -> None:
        """Undo what its turn did to the state."""
        agent = self._agent
        if not (self.overlaps or self._given_up()):
            states.go_back(agent.agent, agent.type, self._state, self._data)

    def _given_up(self) -> bool:
        """Whether the handlers that waited for it go on already, for its deadline has passed.

        Who cancels a call waits until its handler has ended; whose deadline passes, for a while.
        Who reads a stream does not.
        """
        turn = self.turn
        if turn.deadline is None or self.awaited:
            return False
        late_s = self._agent.host.loop.time() - turn.deadline
        if turn.envelope.kind == _STREAM:
            return late_s >= (-UNDONE_S if turn.cancelled else 0.0)
        return late_s > _UNDONE_LATE_S


class Savepoints:
    """Of the re-entrant turns that an agent handles now."""

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: dict[Turn, Savepoint] = {}

    def begin(self, agent: Incarnation, turn: Turn, outer: Turn) -> None:
        """Take one for a turn that begins.

        Raises:
            StateRefused: see `Savepoint`.
        """
        new = Savepoint(agent, turn, outer)
        for point in self._points.values():
            if not point.contains(turn):
                point.overlaps = True
            new.overlaps = new.overlaps or point.overlaps
        self._points[turn] = new

    def without(self, turn: Turn) -> Savepoints | None:
        """Forget the one of a turn that has ended; None: it was the last one."""
        if (point := self._points.pop(turn, None)) is not None:
            point.end()
        return self if self._points else None

    def below(self, chain: tuple[AgentId, ...], outer: Turn | None) -> list[Savepoint]:
        """Return those of the turns that came with a call that has gone this way, oldest first."""
        return [p for p in self._points.values() if p.outer is outer and p.is_below(chain)]

    def of(self, turn: Turn, outer: Turn | None) -> Savepoint | None:
        """Return the one of a turn; None: no turn is under way that would commit for it."""
        point = self._points.get(turn)
        return point if point is not None and point.outer is outer else None
