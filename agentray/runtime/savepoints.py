"""Savepoints: a call chain that comes back to an agent is one transaction of it.

The turn that the chain began with waits, with changes that are not committed, while a re-entrant
one is handled. The re-entrant one fails: the state goes back to what it was when it began. It
succeeds: the outermost one's commit covers it. Turns that do not come back pay nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentray.errors import Fenced
from agentray.protocol.envelope import Kind
from agentray.runtime import state as states

if TYPE_CHECKING:
    from agentray.runtime.incarnation import Incarnation
    from agentray.runtime.turn import Turn

_TELL = int(Kind.TELL)

_LAG_S = 1.0
"""How long it may take until a handler hears that its caller's deadline has passed."""


class Savepoint:
    """What a re-entrant turn found.

    Attributes:
        outer: the turn whose commit covers it, as long as that goes on.
        overlaps: others change the state while it is handled: going back would undo their work.
    """

    __slots__ = ("_agent", "_data", "_state", "_turn", "outer", "overlaps")

    def __init__(self, agent: Incarnation, turn: Turn, outer: Turn) -> None:
        """Take it.

        Raises:
            StateRefused: what the turns before it have left cannot be kept, so nor be restored.
        """
        self._agent = agent
        self._turn = turn
        self._data = agent.checked_state()
        self._state = agent.agent.state if agent.type.state_model is not None else None
        self.outer = outer
        # Nobody's turn waits for a tell.
        self.overlaps = turn.envelope.kind == _TELL

    def contains(self, turn: Turn) -> bool:
        """Whether its own turn waits for this one."""
        chain = (*self._turn.envelope.chain, self._agent.id)
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
        """Whether its caller's deadline has passed: that was told at once, and goes on already.

        Who cancels a call otherwise waits until its handler has ended.
        """
        turn = self._turn
        if turn.deadline is None:
            return False
        return turn.deadline - self._agent.host.loop.time() <= (_LAG_S if turn.cancelled else 0.0)


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
        self._points.pop(turn, None)
        return self if self._points else None

    def of(self, turn: Turn, outer: Turn | None) -> Savepoint | None:
        """Return the one of a turn; None: no turn is under way that would commit for it."""
        point = self._points.get(turn)
        return point if point is not None and point.outer is outer else None
