"""What a handled message set off, until all of it is done.

Acknowledgements travel back along the tree of causes: a message is done when its handler and
everything that it emitted are done. The root's end is the run's end; nobody polls.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from agentray.context import Context
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import error_of, text_of
from agentray.protocol.envelope import Failure, Outcome, Reply, step_of

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.step_emissions import Emissions

MAX_SPANS = 1000
"""Spans that one branch reports; the rest is counted. A trace is bounded, a run is not."""

MAX_ERRORS = 100
"""Errors that one branch reports; the rest is counted."""

EMPTY = Outcome()


class Sent(Protocol):
    """What is under way for a scope."""

    @property
    def copies(self) -> int:
        """For how many agents it is; each of them is told of by itself."""
        ...

    def give_up(self, channel: Channel) -> bool:
        """Cancel it; return whether it will be told when what handles it has ended."""
        ...


class Scope:
    """Counts what is under way for one message and gathers what it came to."""

    __slots__ = (
        "_answer",
        "_dropped",
        "_errors",
        "_more_errors",
        "_on_done",
        "_pending",
        "_questions",
        "_sent",
        "_spans",
        "_spent",
        "step",
    )

    def __init__(self, on_done: Callable[[Outcome], None] | None = None) -> None:
        self._pending = 0
        # Copies that are under way, by message, in the order in which they left.
        self._sent: dict[Sent, int] = {}
        self._answer: Any = None
        self._errors: list[Failure] = []
        self._spans: list[tuple[Any, ...]] = []
        self._dropped = 0
        self._more_errors = 0
        self._questions: tuple[dict[str, Any], ...] = ()
        self._spent: Usage | None = None
        self._on_done = on_done
        # What is emitted and not committed, in a run that is durable per step.
        self.step: Emissions | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._pending == 0

    def on_done(self, callback: Callable[[Outcome], None]) -> None:
        """Call back, once, when nothing is under way any more."""
        self._on_done = callback

    def hold(self) -> None:
        """One more thing is under way."""
        self._pending += 1

    def release(self, outcome: Outcome | None = None, count: int = 1) -> None:
        """One thing is done, or several; the last one to be done ends the scope."""
        if outcome is not None:
            self.absorb(outcome)
        self._pending -= count
        if self._pending == 0 and self._on_done is not None:
            self._end(self._on_done)

    def _end(self, callback: Callable[[Outcome], None]) -> None:
        self._on_done = None
        _ends.run(callback, self.outcome())

    def sent(self, message: Sent) -> None:
        """A message is under way; `ended` tells what it came to, each of its copies."""
        self._sent[message] = message.copies
        self._pending += message.copies

    def sent_one(self, message: Sent) -> None:
        """As `sent`, for what has no copies."""
        self._sent[message] = 1
        self._pending += 1

    def awaits(self, message: Sent) -> bool:
        """Whether it is not known yet what a message came to."""
        return message in self._sent

    def part(self, message: Sent, copy: Sent) -> None:
        """One copy of a message goes its own way from here on."""
        if self.awaits(message):
            self.sent(copy)
            self.ended(message)

    def done(self, message: Sent) -> None:
        """As `ended`, for what has no copies and came to nothing worth telling: most events."""
        if self._sent.pop(message, None) is None:
            return
        self._pending -= 1
        if self._pending == 0 and self._on_done is not None:
            self._end(self._on_done)

    def ended(self, message: Sent, outcome: Outcome | None = None, copies: int = 1) -> None:
        """Note what a message, or copies, came to; harmless when all of it was noted before."""
        left = self._sent.get(message)
        if left is None:
            return
        if left <= copies:
            del self._sent[message]
        else:
            self._sent[message] = left - copies
        self.release(outcome, min(copies, left))

    def cancel(self, channel: Channel) -> None:
        """Cancel the messages under way. Each ends when what handles it has ended."""
        for message in list(self._sent):
            if not message.give_up(channel):
                self.ended(message, copies=message.copies)  # it has not left, or is not answered

    def abandon(self, channel: Channel, callback: Callable[[Outcome], None]) -> None:
        """Cancel what is under way; call back when all of it has ended, instead of before.

        A run that ends before all of its branches have ended wants to know what these came to.
        """
        self._on_done = callback
        self._pending = sum(self._sent.values()) + 1  # whoever held it besides has lost it
        self.cancel(channel)
        self.release()

    def absorb(self, outcome: Outcome) -> None:
        """Add what a branch came to."""
        if self._answer is None:
            self._answer = outcome.answer
        more = MAX_ERRORS - len(self._errors)
        self._errors.extend(outcome.errors[:more])
        if outcome.questions:
            self._questions += outcome.questions
        if outcome.spent is not None:
            self.spend(outcome.spent)
        self._more_errors += outcome.more_errors + max(0, len(outcome.errors) - more)
        room = MAX_SPANS - len(self._spans)
        self._spans.extend(outcome.spans[:room])
        self._dropped += outcome.dropped_spans + max(0, len(outcome.spans) - room)

    def answer(self, value: Any) -> None:
        """Set the answer, unless there is one: the first ends the correlation.

        Args:
            value: JSON; wrapped, so that an answer `None` differs from no answer.
        """
        if self._answer is None:
            self._answer = (value,)

    def ask(self, question: dict[str, Any]) -> None:
        """Note a question to a person."""
        self._questions += (question,)

    def spend(self, spent: Usage) -> None:
        """Note what was used in a run that is durable per step; it counts with its commit."""
        self._spent = spent if self._spent is None else self._spent.plus(spent)
        if self.step is not None and self.step.tell_spent is not None:
            self.step.tell_spent(self.step, self._spent)

    def fail(self, failure: Failure) -> None:
        """Note an error of this message itself."""
        self._errors.append(failure)

    def span(self, *fields: Any) -> None:
        """Note what was handled, in the order of the fields of `protocol.runs.Span`."""
        if len(self._spans) < MAX_SPANS:
            self._spans.append(fields)
        else:
            self._dropped += 1

    def outcome(self) -> Outcome:
        """Return what has been gathered so far."""
        if self._answer is None and not (
            self._errors or self._spans or self._questions or self._spent
        ):
            return EMPTY
        return Outcome(
            self._answer,
            tuple(self._errors),
            tuple(self._spans),
            self._dropped,
            self._more_errors,
            self._questions,
            self._spent,
        )


class _Ends(threading.local):
    """Ends of scopes, one after the other: the ends of a chain of thousands must not nest."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[Outcome], None], Outcome]] | None = None

    def run(self, callback: Callable[[Outcome], None], outcome: Outcome) -> None:
        """Call back now, or when the end that is under way is over."""
        if self._waiting is not None:
            self._waiting.append((callback, outcome))
            return
        waiting = self._waiting = deque([(callback, outcome)])
        try:
            while waiting:
                callback, outcome = waiting.popleft()
                callback(outcome)
        finally:
            self._waiting = None


_ends = _Ends()


def scope_of(context: Context) -> Scope:
    """Return the scope of the message that a context belongs to; it begins when first needed."""
    if context.scope is None:
        context.scope = Scope()
    return context.scope


def failure_of(reply: Reply, agent: str = "", name: str = "") -> Outcome:
    """Return the outcome of a message that ended with an error instead of one.

    Args:
        reply: the error.
        agent: to whom it was sent.
        name: of an event or prompt, which is a step of the path to its error; "": of none.
    """
    error = error_of(reply)
    path = (step_of(name, agent),) if name else ()
    return Outcome(errors=(Failure(type(error).__name__, text_of(error), agent, path),))
