"""An event for an agent of its publisher's own host: message, envelope and turn in one object.

Nothing of it is looked up by its number on the way back: the scope that sent it hears of its end
from itself. What cannot be handled here becomes a message like all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentray.errors import ChannelClosed
from agentray.events import Event
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Envelope, Outcome, Reply, ReplyKind
from agentray.runtime.event_message import EventMessage, below
from agentray.runtime.message import Origin
from agentray.runtime.scope import EMPTY, Scope, failure_of
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.dead_letters import DeadLetters
    from agentray.runtime.local_link import LocalLink

# Members of an enum are looked up through its class, which shows at this rate.
_VALUE, _ERROR = int(ReplyKind.VALUE), int(ReplyKind.ERROR)
_MOVED, _REFUSED = int(ReplyKind.MOVED), int(ReplyKind.REFUSED)


class LocalEvent(Turn):
    """One event for one agent of this host.

    What its handler publishes is counted by the scope that counts this one: so all that an event
    sets off on one host needs one scope, and no acknowledgement goes from one to the next. Only a
    handler with something to tell (an error, a trace, a question, a call) has a scope of its own.
    """

    __slots__ = ("_event", "_undelivered", "answers", "link", "parent", "under")

    copies = 1

    def __init__(
        self,
        envelope: Envelope,
        link: LocalLink,
        received: float,
        event: Event,
        parent: Scope,
        under: LocalEvent | None,
        answers: bool,
        letters: DeadLetters | None,
    ) -> None:
        """Make it, under way for the scope that sends it.

        Args:
            envelope: what the agent's turn reads.
            link: of this host.
            received: now, in seconds of the event loop's clock.
            event: as it goes out.
            parent: the scope that hears of it.
            under: the event whose handler sends it, where the same scope hears of that; None: the
                scope is the handler's own.
            answers: see `EventMessage`.
            letters: see `EventMessage`.
        """
        # Not through super(): each event makes one of these for each of its recipients.
        self.deadline = None
        self.received = received
        self.envelope = envelope
        self.sink = self.link = link
        self.run = None
        self.writer = None
        self.letters = None
        self.scope = None
        self.task = None
        self.cancelled = False
        self._event = event
        self.parent = parent
        self.under = under
        self.answers = answers
        self._undelivered = letters
        link.active[envelope[0]] = self
        parent.sent_one(self)

    def reply(self, kind: int, payload: Any = None, outcome: Outcome | None = None) -> None:
        """Tell the scope that sent it what it came to."""
        if self.sink.active.pop(self.envelope[0], None) is None:
            return  # it was told before, or its handler was abandoned
        if kind == _VALUE and outcome is None:
            self.parent.done(self)
        elif kind in (_MOVED, _REFUSED):
            self._go_elsewhere(may_have_run=kind == _MOVED)
        else:
            if kind == _ERROR:
                outcome = self._failure(Reply(self.envelope.id, kind, payload))
            if outcome is not None and not self.answers:
                outcome = outcome._replace(answer=None)
            self.parent.ended(self, outcome and below(outcome, self.under))

    def handled(self, scope: Scope | None) -> None:
        """Let it end, its handler having: in the shortest way where that has set off nothing."""
        if scope is not None:
            super().handled(scope)
        elif self.sink.active.pop(self.envelope[0], None) is not None:
            self.parent.done(self)

    def done(self, outcome: Outcome) -> None:
        """Tell the scope that sent it that it, and all that it set off, is done."""
        if outcome is EMPTY:
            if self.sink.active.pop(self.envelope[0], None) is not None:
                self.parent.done(self)
        else:
            self.reply(_VALUE, None, outcome.below(self.envelope))

    def give_up(self, channel: Channel) -> bool:
        """Cancel what handles it; return whether it tells when that has ended."""
        del channel  # it took none
        if self.envelope.id not in self.sink.active:
            return False
        self.link.host.cancel(self)
        return True

    def _failure(self, reply: Reply) -> Outcome:
        envelope = self.envelope
        letters = self._undelivered
        if letters is not None and self.parent.awaits(self):
            error = error_of(reply)
            if not isinstance(error, ChannelClosed):
                letters.undelivered(envelope.target, self._event, error)
        return failure_of(reply, str(envelope.target), envelope.name)

    def _go_elsewhere(self, *, may_have_run: bool) -> None:
        """Go on as a message: its agent lives elsewhere, or will."""
        if self.cancelled:
            self.parent.ended(self)
            return
        envelope = self.envelope
        message = EventMessage(
            (envelope.target,),
            self._event,
            envelope.payload,
            self.parent,
            answers=self.answers,
            letters=self._undelivered,
            under=self.under,
        )
        message.origin = Origin(*envelope[7:])
        self.parent.part(self, message)
        self.link.channel.moved(message, may_have_run)
