"""An event on its way to one subscriber; the scope that sent it hears what it came to."""

from __future__ import annotations

from typing import Any

from agentray.errors import ChannelClosed
from agentray.events import Event
from agentray.ids import AgentId
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.runtime.dead_letters import DeadLetters
from agentray.runtime.message import Message
from agentray.runtime.scope import Scope, failure_of

_EVENT = int(Kind.EVENT)


class EventMessage(Message):
    """An event for one agent. Its acknowledgement says that all that it set off is done."""

    __slots__ = ("_answers", "_event", "_letters", "_scope")

    def __init__(
        self,
        target: AgentId,
        event: Event,
        scope: Scope,
        *,
        answers: bool,
        letters: DeadLetters | None = None,
    ) -> None:
        """Make it.

        Args:
            target: the subscriber.
            event: as it goes out.
            scope: of the message that is being handled.
            letters: where it is kept if it does not arrive; None: its run has an error then.
            answers: a `TerminateEvent` that it leads to ends the conversation of that message, too.
        """
        super().__init__(_EVENT, target, event.event_type, event)
        self._scope = scope
        self._answers = answers
        self._letters = letters
        self._event = event

    def on_value(self, payload: Any) -> None:
        """Take the acknowledgement of an event that came to nothing worth telling."""
        del payload
        self._scope.ended(self)

    def on_reply(self, reply: Reply) -> None:
        """Take the acknowledgement; a cancelled event may get one more, which says nothing new."""
        failed = reply.kind == ReplyKind.ERROR
        if failed and self._letters is not None:
            letters, self._letters = self._letters, None
            error = error_of(reply)
            # A host that stops has let what is under way end; what has not left is lost.
            if self.link is None or not isinstance(error, ChannelClosed):
                letters.undelivered(self.target, self._event, error)
        outcome = failure_of(reply, str(self.target), self.name) if failed else reply.outcome
        if outcome is not None and not self._answers:
            outcome = outcome._replace(answer=None)
        self._scope.ended(self, outcome)
