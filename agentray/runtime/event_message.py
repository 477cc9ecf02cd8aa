"""An event on its way to subscribers; the scope that sent it hears what it came to at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentray.errors import ChannelClosed
from agentray.events import Event
from agentray.ids import AgentId
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Kind, Outcome, Reply, ReplyKind
from agentray.runtime.dead_letters import DeadLetters
from agentray.runtime.message import OUTSIDE, Message
from agentray.runtime.scope import Scope, failure_of

if TYPE_CHECKING:
    from agentray.runtime.local_event import LocalEvent

_EVENT = int(Kind.EVENT)

MAX_COPIES = 256
"""Agents of one host that get an event by one message: batches get hardly longer than they may."""


class EventMessage(Message):
    """An event for agents of one host.

    The acknowledgement of each copy says that all that the event set off there is done.
    """

    __slots__ = ("_answers", "_event", "_letters", "_scope", "_targets", "_under", "copies")

    def __init__(
        self,
        targets: Sequence[AgentId],
        event: Event,
        payload: Event | bytes,
        scope: Scope,
        *,
        answers: bool,
        letters: DeadLetters | None = None,
        under: LocalEvent | None = None,
    ) -> None:
        """Make it.

        Args:
            targets: the subscribers, at most `MAX_COPIES`.
            event: as it goes out.
            payload: that brings it, see `event_payloads.payload_of`.
            scope: that hears of it.
            letters: where it is kept if it does not arrive; None: its run has an error then.
            answers: a `TerminateEvent` that it leads to ends the conversation of that message, too.
            under: the event whose handler sends it, where the same scope hears of that; None: the
                scope is the handler's own.
        """
        super().__init__(_EVENT, targets[0], event.event_type, payload)
        self._targets = targets
        self.copies = len(targets)
        self.id = 0
        self.sent = False  # its copies may part before that
        self._scope = scope
        self._answers = answers
        self._letters = letters
        self._event = event
        self._under = under

    def alone(self, number: int) -> EventMessage:
        """Return a message for the copy of a number, which goes a way of its own from here on."""
        if self.copies == 1:
            return self
        target, scope = self._target_of(number), self._scope
        message = EventMessage(
            (target,),
            self._event,
            self.payload,
            scope,
            answers=self._answers,
            letters=self._letters,
            under=self._under,
        )
        message.id, message.link = number, self.link
        message.origin = self.origin
        message.sent, message.closed = self.sent, self.closed
        scope.part(self, message)
        return message

    def _target_of(self, number: int) -> AgentId:
        return self._targets[number - self.id] if self.copies > 1 else self.target

    def envelope(self, now: float) -> tuple[Any, ...]:
        """Return the fields of its `Envelope`, with its other recipients; see `copies_of`."""
        fields = super().envelope(now)
        if self.copies == 1:
            return fields
        whole = fields + self.origin if self.origin is OUTSIDE else fields
        return (*whole, tuple(map(tuple, self._targets[1:])))  # plain ones pickle faster

    def on_value(self, payload: Any) -> None:
        """Take the acknowledgement of an event that came to nothing worth telling."""
        del payload
        self._scope.ended(self)

    def on_copies(self, count: int) -> None:
        """Take the acknowledgements of so many copies that came to nothing worth telling."""
        self._scope.ended(self, copies=count)

    def on_reply(self, reply: Reply) -> None:
        """Take the acknowledgement; a cancelled event may get one more, which says nothing new."""
        failed = reply.kind == ReplyKind.ERROR
        target = self._target_of(reply.id)
        if failed and self._letters is not None and self._scope.awaits(self):
            error = error_of(reply)
            # A host that stops has let what is under way end; what has not left is lost.
            if self.link is None or not isinstance(error, ChannelClosed):
                self._letters.undelivered(target, self._event, error)
        outcome = failure_of(reply, str(target), self.name) if failed else reply.outcome
        if outcome is not None and not self._answers:
            outcome = outcome._replace(answer=None)
        self._scope.ended(self, outcome and below(outcome, self._under))


def below(outcome: Outcome, cause: LocalEvent | None) -> Outcome:
    """Put an event, and those that led to it, in front of the paths of an outcome's errors.

    Args:
        outcome: of what the event's handler has sent.
        cause: the event; None: it is the scope's own message, which does so itself.
    """
    while cause is not None and outcome.errors:
        outcome, cause = outcome.below(cause.envelope), cause.under
    return outcome
