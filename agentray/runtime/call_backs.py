"""Deadlines of calls that have come back to an agent, or may have.

A deadline is told at once, and what handles the message is cancelled. Not so to a handler whose own
agent may have been called back meanwhile: it would go on beside that re-entrant handler, and commit
what that one has changed, although it is being undone. Such a handler hears of the deadline when
what it called has ended, as one does that cancels a call, or after `UNDONE_S`.

Each sender on the way decides by itself, by the chain: an agent that no other one calls asks its
host, which has the handlers that came back; everybody behind it waits for whom it called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from agentray.protocol.envelope import Kind
from agentray.runtime.message import Message
from agentray.runtime.savepoints import UNDONE_S, Savepoint

if TYPE_CHECKING:
    from agentray.ids import AgentId
    from agentray.runtime.host import Host

_CALL = int(Kind.CALL)


class CalledBack:
    """The re-entrant handlers under a call whose deadline has passed, and their agent."""

    def __init__(self, host: Host, agent_id: AgentId, points: Sequence[Savepoint]) -> None:
        self._host = host
        self._agent_id = agent_id
        self._points = points

    async def undo(self) -> None:
        """Wait until they have ended, cancelled by who called them; the rest is undone anyway."""
        for point in self._points:
            point.awaited = True
        ends = [point.until_ended() for point in self._points]
        await asyncio.wait(ends, timeout=UNDONE_S)
        agent = self._host.find(self._agent_id)
        for point in reversed(self._points):  # the oldest is the farthest back
            if agent is not None:
                agent.give_up(point)


def called_back(host: Host, message: Message) -> CalledBack | None:
    """Return the handlers that a call has come back with to its own sender; None: with none."""
    sender = message.origin.sender
    if message.kind != _CALL or sender is None or (agent := host.find(sender)) is None:
        return None
    points = agent.called_back_by((*message.origin.chain, message.target))
    return CalledBack(host, sender, points) if points else None


def may_have_come_back(message: Message) -> bool:
    """Whether a call may have reached an agent whose turn waits for it."""
    chain = message.origin.chain
    return message.kind == _CALL and (len(chain) > 1 or message.target in chain)


async def until_undone(ended: asyncio.Future[object] | None, back: CalledBack | None) -> None:
    """Wait until what a call has set off has ended, at most for a while.

    Args:
        ended: ends with its handler; None: nobody waits for that.
        back: what came back to its sender.
    """
    waits: list[Awaitable[object]] = []
    if ended is not None:
        waits.append(asyncio.wait((ended,), timeout=UNDONE_S))
    if back is not None:
        waits.append(back.undo())
    await asyncio.gather(*waits)
