"""Turns that an agent takes by itself: ticks of timers, turns of loops, `on_idle`.

Such a turn is a message from the agent to itself that never travels. It goes through the mailbox,
so it never overlaps with a handler where handlers do not overlap, and it ends as a handler does:
with a commit, or with the state as it was.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from agentray.errors import Fenced
from agentray.ids import AgentId, new_id
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Envelope, Outcome, Reply, ReplyKind
from agentray.runtime.scope import Scope
from agentray.runtime.turn import Turn

logger = logging.getLogger(__name__)

OWN = 0
"""The kind of these messages; false, as no kind that travels is."""


class OwnSink(ABC):
    """Hears how turns ended; a `ReplySink`."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active: dict[int, Turn] = {}

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """See `turn.ReplySink`."""
        del outcome  # errors of what it set off were told as they came
        if kind == ReplyKind.MOVED:
            self.on_end(Fenced())
        elif kind == ReplyKind.ERROR:
            self.on_end(error_of(Reply(message_id, kind, payload)))
        else:
            self.on_end(None)

    @abstractmethod
    def on_end(self, error: BaseException | None) -> None:
        """Take the end of a turn; None: it was committed."""


def own_turn(agent: AgentId, name: str, work: Callable[[], Awaitable[None]], sink: OwnSink) -> Turn:
    """Make a turn that does `work`; a conversation of its own."""
    return Turn(Envelope(0, OWN, *agent, name, work, correlation_id=new_id("cor")), sink)


class Unheard(Scope):
    """The scope of what nobody waits for: errors of what it set off are logged, and forgotten."""

    __slots__ = ("_agent",)

    def __init__(self, agent: AgentId) -> None:
        super().__init__()
        self._agent = agent

    def absorb(self, outcome: Outcome) -> None:
        """Log the errors of a branch."""
        for error in outcome.errors:
            logger.error(
                "%s published or called what failed at %s: %s: %s",
                self._agent,
                error.agent or "?",
                error.type,
                error.message,
                extra={"action": "background_branch_failed", "agent": str(self._agent)},
            )

    def answer(self, value: Any) -> None:
        """Nobody asked."""

    def span(self, *fields: Any) -> None:
        """There is no run whose trace it would belong to."""


class Once(OwnSink):
    """The end of one turn, as a future: its error, or None."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        super().__init__()
        self.ended: asyncio.Future[BaseException | None]
        self.ended = asyncio.get_running_loop().create_future()

    def on_end(self, error: BaseException | None) -> None:
        """Tell whoever waits."""
        if not self.ended.done():
            self.ended.set_result(error)
