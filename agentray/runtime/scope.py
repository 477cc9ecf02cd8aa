"""What a handled message set off, until all of it is done.

Acknowledgements travel back along the tree of causes: a message is done when its handler and
everything that it emitted are done. The root's end is the run's end; nobody polls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentray.context import Context
from agentray.protocol.codec import error_of, text_of
from agentray.protocol.envelope import Failure, Outcome, Reply

MAX_SPANS = 1000
"""Spans that one branch reports; the rest is counted. A trace is bounded, a run is not."""

EMPTY = Outcome()


class Scope:
    """Counts what is under way for one message and gathers what it came to."""

    __slots__ = ("_answer", "_dropped", "_errors", "_on_done", "_pending", "_spans")

    def __init__(self, on_done: Callable[[Outcome], None] | None = None) -> None:
        self._pending = 0
        self._answer: Any = None
        self._errors: list[Failure] = []
        self._spans: list[tuple[Any, ...]] = []
        self._dropped = 0
        self._on_done = on_done

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._pending == 0

    @property
    def only_one_held(self) -> bool:
        """Whether a single thing is under way."""
        return self._pending == 1

    def on_done(self, callback: Callable[[Outcome], None]) -> None:
        """Call back, once, when nothing is under way any more."""
        self._on_done = callback

    def hold(self) -> None:
        """One more thing is under way."""
        self._pending += 1

    def release(self, outcome: Outcome | None = None) -> None:
        """One thing is done; the last one to be done ends the scope."""
        if outcome is not None:
            self.absorb(outcome)
        self._pending -= 1
        if self._pending == 0 and self._on_done is not None:
            callback, self._on_done = self._on_done, None
            callback(self.outcome())

    def absorb(self, outcome: Outcome) -> None:
        """Add what a branch came to."""
        if self._answer is None:
            self._answer = outcome.answer
        self._errors.extend(outcome.errors)
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
        if self._answer is None and not self._errors and not self._spans:
            return EMPTY
        return Outcome(self._answer, tuple(self._errors), tuple(self._spans), self._dropped)


def scope_of(context: Context) -> Scope:
    """Return the scope of the message that a context belongs to; it begins when first needed."""
    if context.scope is None:
        context.scope = Scope()
    return context.scope


def failure_of(reply: Reply, agent: str = "") -> Outcome:
    """Return the outcome of a message that ended with an error instead of one."""
    error = error_of(reply)
    return Outcome(errors=(Failure(type(error).__name__, text_of(error), agent, ()),))
