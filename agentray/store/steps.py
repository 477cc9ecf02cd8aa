"""What is kept of runs that are durable per step: their messages, and what is left of each run.

A message is an event on its way to one agent. Handling it is a step: what the handler changes, what
it emits and the removal of the message are one commit. A run counts its messages in the same
commits; the one after which none is left ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from agentray.ids import AgentId
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.questions import Question
from agentray.protocol.runs import RunError, RunStatus

if TYPE_CHECKING:
    from agentray.store.base import CommitOutcome, Effects, StoredRun

MAX_ERRORS = 100
"""Errors that are kept of one run; the others are counted."""

MAX_RECORDED = 10_000
"""Published events that are kept of one run, about: a commit that begins below it is written."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be kept."""

    agent: AgentId
    slot: int
    event: str  # JSON
    about: str  # JSON: what travels with it


@dataclass(frozen=True, slots=True)
class NewRunEvent:
    """An event to be added to a run; the commit gives it its offset."""

    kind: str
    time: datetime
    data: Any  # JSON


@dataclass(frozen=True, slots=True)
class Step:
    """What one commit does to a run that is durable per step, beside the state.

    Attributes:
        run_id: the run.
        at: when it happened; where it ends the run, the run's end.
        begins: the run begins with it, and this is what an error means to it (`fail`, `collect`).
        handled: number of the message that was handled; None: it was none.
        holds: the message is kept, and done when a later step settles it, or when nothing but
            such messages is left of the run. These are the numbers of all that its agent holds of
            the run, this one among them: others that an earlier life of the agent held are to be
            handled again. None: it is done.
        settles: numbers of messages that are done with this one.
        emitted: new messages, in order.
        answer: the run's result, as a tuple of one JSON value; the first one counts.
        closes: the run takes no messages and events that are emitted after this step.
        errors: of the handler.
        events: to be added to the run.
        recorded: these are published events, of which a bounded number is kept.
        budget: of the run that begins.
        spent: what was used, with the number of the message whose handler has; it counts if that
            is still there, so that it counts once. None: no message's, it counts.
        asked: questions. Where nothing else is left of the run it waits for the answer to the
            first that is open, unless it has a result, or an error that is its end.
        resumes: the run goes on with its so-manieth answer; one with which it has is `GONE`.
        drops: the run ends with it as this, with its errors, and what is left of it is dropped.
            `succeeded`: it ends with the result and the errors that it has.
    """

    run_id: str
    at: datetime
    begins: str | None = None
    handled: int | None = None
    holds: Sequence[int] | None = None
    settles: Sequence[int] = ()
    emitted: Sequence[NewMessage] = ()
    answer: tuple[Any] | None = None
    closes: bool = False
    errors: Sequence[RunError] = ()
    events: Sequence[NewRunEvent] = ()
    recorded: bool = False
    budget: Budget | None = None
    spent: Sequence[tuple[int | None, Usage]] = ()
    asked: Sequence[Question] = ()
    resumes: int | None = None
    drops: RunStatus | None = None


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a run ended that a step has ended, or what it waits for.

    Attributes:
        status: a terminal one, or `waiting`.
        result: of the run.
        errors: of the run.
        at: when that was.
        question: that it waits for.
        answered: with how many answers it had gone on.
    """

    status: RunStatus
    result: Any
    errors: tuple[RunError, ...]
    at: datetime
    question: Question | None = None
    answered: int = 0


@dataclass(frozen=True, slots=True)
class StepCommitted:
    """What became of one `Effects` of a batch with steps.

    Attributes:
        outcome: of the whole.
        numbers: of the emitted messages; None where the run took no more.
        events: how many events the run has now; None: as many as before.
        end: the run has ended with this batch, or waits; told to one of its steps only.
        usage: what the run has used now; None: as much as before.
    """

    outcome: CommitOutcome
    numbers: Sequence[int | None] = ()
    events: int | None = None
    end: StepEnd | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class KeptMessage:
    """A message as it is kept."""

    run_id: str
    number: int
    agent: AgentId
    event: str  # JSON
    about: str  # JSON
    attempts: int = 0  # hosts that had begun it and lost it, as far as is known


class StepStore(Protocol):
    """The part of the Store for runs that are durable per step."""

    async def commit_steps(self, host: str, batch: Sequence[Effects]) -> list[StepCommitted]:
        """Apply effects as `commit` does, some of them with a step; in one transaction.

        A step whose message is not there any more is `GONE`, as is a second beginning of a run, or
        one that goes on with an answer again: nothing of its effects is written. What a step
        without a message emits to a run that has ended is dropped, and the rest of its effects
        written. A run that has used more than its budget, and has no result, ends with that as
        `budget_exceeded`.

        Raises:
            ValueError, UnknownRun, PayloadError: as `commit`; nothing was written.
        """
        ...

    async def load_messages(
        self,
        agent_types: Sequence[str],
        slots: Sequence[int],
        *,
        after: tuple[str, int] = ("", 0),
        limit: int = 500,
    ) -> list[KeptMessage]:
        """Return messages for agents of these types in these slots.

        Args:
            agent_types: of the agents.
            slots: theirs.
            after: run and number of the last one already seen; they come in this order.
            limit: at most so many.
        """
        ...

    async def begin_messages(
        self, host: str, messages: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], int]:
        """Note that a host begins messages, by run and number; return the attempts of each.

        One that another host had begun has one attempt more: that host has lost it. Those that are
        gone are left out.
        """
        ...

    async def settled_runs(self, run_ids: Sequence[str]) -> list[StoredRun]:
        """Return those of the runs that have ended, wait for an answer, or were answered."""
        ...
