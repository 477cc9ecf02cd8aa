"""One message on the host's side: from its acceptance to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from agentray.ids import AgentId
from agentray.protocol.codec import encode_error
from agentray.protocol.envelope import Envelope, Kind, Outcome, ReplyKind
from agentray.runtime.scope import EMPTY

if TYPE_CHECKING:
    from agentray.runtime.active_run import ActiveRun
    from agentray.runtime.dead_letters import DeadLetters
    from agentray.runtime.scope import Scope
    from agentray.runtime.streams import PartWriter


# Members of an enum are looked up through its class, which shows at this rate.
_VALUE, _OPEN = int(ReplyKind.VALUE), int(ReplyKind.OPEN)


class ReplySink(Protocol):
    """Where replies go: the outbox of a link, a sender in this process, or a run."""

    @property
    def active(self) -> dict[int, Turn]:
        """What is under way for this sender, by message id."""
        ...

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Take a reply."""
        ...


class _Nobody:
    """Where replies go of handlers that were abandoned."""

    def __init__(self) -> None:
        self.active: dict[int, Turn] = {}

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Take a reply, and forget it."""


_NOBODY = _Nobody()


class Turn:
    """A message that an agent handles, or will.

    Attributes:
        deadline: when its sender gives up, in seconds of the event loop's clock; None: never.
        received: when it came, in seconds of the event loop's clock.
        run: the run whose prompt this is; None for every other message.
        writer: of what it yields; None for every other message.
        letters: where it is kept if it comes to nothing: its sender was told that it is queued, and
            thinks no more of it; None: it still waits for an answer.
        scope: what it has set off and its handler has not waited for; None: nothing, or not yet.
        task: what handles it; None before its handler begins and after it has ended.
        cancelled: its sender gave it up.
    """

    is_step = False
    """Whether it is a message of a run that is durable per step; a class says so for all."""

    answers = False
    """Whether the scope that sent it hears of what its handler sends, too: in a `LocalEvent`."""

    __slots__ = (
        "cancelled",
        "deadline",
        "envelope",
        "letters",
        "received",
        "run",
        "scope",
        "sink",
        "task",
        "writer",
    )

    def __init__(
        self,
        envelope: Envelope,
        sink: ReplySink,
        received: float = 0.0,
        run: ActiveRun | None = None,
    ) -> None:
        """Take a message in.

        Args:
            envelope: the message.
            sink: where its reply goes.
            received: when it came, in seconds of the event loop's clock.
            run: the run whose prompt it is.
        """
        timeout_s = envelope.timeout_s
        self.deadline = None if timeout_s is None else received + timeout_s
        self.received = received
        self.envelope = envelope
        self.sink = sink
        self.run = run
        self.writer: PartWriter | None = None
        self.letters: DeadLetters | None = None
        self.scope: Scope | None = None
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False
        sink.active[envelope.id] = self

    def reply(self, kind: int, payload: Any = None, outcome: Outcome | None = None) -> None:
        """Answer the sender; with `OPEN`, it can still be cancelled, else it is over."""
        if kind != _OPEN:
            self.sink.active.pop(self.envelope.id, None)
        self.sink.reply(self.envelope.id, kind, payload, outcome)

    def ends_with(self, scope: Scope, callback: Callable[[Outcome], None]) -> None:
        """Let a message whose handler has ended end when what that set off has."""
        self.scope = scope
        scope.on_done(callback)

    def handled(self, scope: Scope | None) -> None:
        """Let an event end whose handler has: now, or when all is done that it has set off.

        Args:
            scope: what it has set off; None: nothing.
        """
        if scope is None:
            number, sink = self.envelope[0], self.sink
            sink.active.pop(number, None)
            sink.reply(number, _VALUE)
        elif scope.idle:
            self.done(scope.outcome())
        else:
            self.ends_with(scope, self.done)

    def done(self, outcome: Outcome) -> None:
        """Tell the sender of an event that it, and all that it set off, is done."""
        # Most came to nothing worth telling, which has the shorter way.
        self.reply(_VALUE, None, None if outcome is EMPTY else outcome.below(self.envelope))

    def given_up(self, outcome: Outcome) -> None:
        """Answer that it was cancelled, with what it and all that it set off has come to."""
        if self.envelope.kind == Kind.EVENT:
            self.reply(ReplyKind.CANCELLED, None, outcome.below(self.envelope))
        else:
            self.reply(ReplyKind.CANCELLED)

    def fail(self, error: BaseException, outcome: Outcome | None = None) -> None:
        """Answer with an error; of a message that nobody waits for, it makes a dead letter."""
        if self.letters is not None:
            self.letters.untold(self.envelope, error)
            self.drop()
            return
        self.reply(ReplyKind.ERROR, encode_error(error), outcome)

    def awaited_by(self, chain: tuple[AgentId, ...]) -> None:
        """Note that more turns wait for it than did when it was sent."""
        self.envelope = self.envelope._replace(chain=chain)

    def abandon(self, error: BaseException) -> None:
        """Answer with an error although its handler goes on; whatever that does, nobody hears."""
        self.fail(error)
        self.sink = _NOBODY

    @property
    def abandoned(self) -> bool:
        """Whether its handler may have no effects any more."""
        return self.sink is _NOBODY

    def drop(self) -> None:
        """End it without an answer: nobody waits for one."""
        self.sink.active.pop(self.envelope.id, None)
