"""Call chains through starts: who waits for an agent's `on_start`, and what that one waits for.

A message to an agent that is being started waits for its `on_start`, and so do the agents in the
message's chain. What `on_start` sends carries them on, so that it may call back who waits for it.
Somebody may come to wait when such a message is under way already: it is told then, to its host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentray.context import Context
from agentray.errors import StartCycle
from agentray.ids import AgentId
from agentray.protocol.envelope import Kind
from agentray.runtime.message import Message

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.incarnation import Incarnation
    from agentray.runtime.turn import Turn

Chain = tuple[AgentId, ...]

_LOOK_AFTER = 64
_EVENT, _TELL = int(Kind.EVENT), int(Kind.TELL)


class StartContext(Context):
    """The context of an `on_start`: all who wait for it wait for what it calls."""

    __slots__ = ("_look_at", "_sent", "_starting")

    listens = True

    def __init__(self, starting: Incarnation, host: Host) -> None:
        super().__init__(starting.id, host)
        self._starting = starting
        self._sent: list[Message] = []
        self._look_at = _LOOK_AFTER  # how many may be kept before the answered ones are dropped

    @property
    def chain(self) -> Chain:
        """The agents whose turns wait for this start at the moment, the starting one last."""
        waiting = (turn.envelope.chain for turn in self._starting.early if _waits(turn))
        return merged((*waiting, (self.agent,)))

    def sent(self, message: Message) -> None:
        """Keep a message until it is answered."""
        self._sent.append(message)
        if len(self._sent) > self._look_at:
            self._sent = self.awaited()
            self._look_at = 2 * len(self._sent) + _LOOK_AFTER

    def awaited(self) -> list[Message]:
        """Return the messages whose answers it waits for."""
        return [m for m in self._sent if not m.closed and m.kind != _TELL]


class StartChains:
    """The `on_start`s under way on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._contexts: dict[Incarnation, StartContext] = {}

    def enter(self, agent: Incarnation) -> StartContext:
        """Note that an agent's `on_start` begins; return its context."""
        context = self._contexts[agent] = StartContext(agent, self._host)
        return context

    def leave(self, agent: Incarnation) -> None:
        """Note that it has ended."""
        del self._contexts[agent]

    def admits(self, agent: Incarnation, turn: Turn) -> bool:
        """Let what an `on_start` has sent know who waits for it, too, from now on.

        Returns:
            False when it would wait for ever, and has got an error: it comes from what the
            `on_start` itself waits for.
        """
        context = self._contexts.get(agent)
        chain = turn.envelope.chain
        if context is None or not _waits(turn):
            return True
        awaited = context.awaited()
        if agent.id in chain:
            way_back = (*chain[chain.index(agent.id) + 1 :], agent.id)
            if any(message.target in way_back for message in awaited):
                turn.fail(StartCycle(str(agent.id), tuple(str(each) for each in way_back[:-1])))
                return False
        for message in awaited:
            extend(message, chain)
        return True


def merged(chains: Iterable[Chain]) -> Chain:
    """Return one chain of all: each agent once, in the order in which they come."""
    return tuple(dict.fromkeys(agent for chain in chains for agent in chain))


def extend(message: Message, waiting: Chain) -> None:
    """Let more agents wait for a message, which may have reached its host already."""
    chain = merged((waiting, message.origin.chain))
    if chain == message.origin.chain:
        return
    message.origin = message.origin._replace(chain=chain)
    if message.link is not None and message.sent:
        message.link.tell_host(Kind.AWAITED, message, str(message.id), chain)


def _waits(turn: Turn) -> bool:
    """Whether the turns in a message's chain wait for it; nobody waits for an event."""
    return turn.envelope.kind != _EVENT
