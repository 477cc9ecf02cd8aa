"""A run that is durable per step, as the host sees it that works on it.

That is to say: that begins it, keeps its timeout, tells its end to those who wait, and stops it.
The work itself is done wherever its messages are handled, and goes on when this host is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentray.core.lifecycle import is_settled
from agentray.errors import Fenced, PayloadError, UnknownEventType
from agentray.event_loop import time_of_day
from agentray.events import Event
from agentray.ids import AgentId
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.envelope import Failure, Outcome
from agentray.protocol.event_runs import Recording, step_key
from agentray.protocol.runs import Run, RunError, RunStatus, why_stopped
from agentray.runtime.active_run import ANSWERED_CANCEL_S, CANCEL_GRACE_S, ActiveRun
from agentray.runtime.asking import last_answer
from agentray.runtime.message import Origin
from agentray.runtime.requests import request_of
from agentray.runtime.scope import MAX_SPANS
from agentray.runtime.step_budget import StepAccount
from agentray.runtime.step_emissions import Emissions, errors_of
from agentray.store.base import CommitOutcome, Effects, StoredRun
from agentray.store.steps import Step, StepCommitted

if TYPE_CHECKING:
    from agentray.runtime.run_book import RunBook

logger = logging.getLogger(__name__)

_TRACE_AFTER_S = 0.2
"""How long after the end of a run its trace waits for spans from other hosts."""


class StepRun(ActiveRun):
    """One host's part in such a run."""

    bound = False

    def __init__(self, stored: StoredRun, book: RunBook, *, to_end: bool = False) -> None:
        """Take it up."""
        super().__init__(stored, book, durable=True, to_end=to_end)
        self.key = step_key(self.recording, self.run.id)
        self.scope.step = Emissions()
        self._spans: list[tuple[Any, ...]] = []
        self._dropped_spans = 0

    def _account(self, budget: Budget | None, before: Usage | None) -> StepAccount:
        self.account: StepAccount = StepAccount(budget, before)
        return self.account

    @property
    def conversation(self) -> str:
        """The correlation of its events: the same in each attempt, for the work goes on."""
        return self.run.correlation_id

    # Beginning

    def begin_prompt(self) -> None:
        """Begin with the prompt of an agent."""
        run = self.run
        try:
            prompt = request_of(run, self.stored.input, run.correlation_id)
        except (PayloadError, UnknownEventType) as error:
            self.settled(Outcome(errors=(Failure(type(error).__name__, str(error), "", ()),)))
            return
        self._send(AgentId(*self.agent), prompt)
        self.settled(Outcome())

    def go_on(self) -> None:
        """Go on with the last answer, unless it has: the agent gets it that asked."""
        answer = last_answer(self)
        if self.recording == Recording.EVENTS:
            self.log.record(answer)
        self._send(AgentId.parse(self.stored.answers[-1].question.agent), answer)
        self._book.spawn(self._begin(Outcome()))

    def _send(self, agent: AgentId, event: Event) -> None:
        run = self.run
        about = (run.correlation_id, None, None, (), self.agent)
        origin = Origin(*about, self.trace_context, self.key, self.options.access)
        self._emissions.add(agent, event, origin)

    @property
    def _emissions(self) -> Emissions:
        if self.scope.step is None:
            self.scope.step = Emissions()
        return self.scope.step

    def settled(self, outcome: Outcome, *, sure: bool = False) -> None:
        """Commit what it begins with; where it has begun before, that goes on."""
        del sure
        self._book.spawn(self._begin(outcome))

    async def _begin(self, outcome: Outcome) -> None:
        emissions, answers = self._emissions, len(self.stored.answers)
        step = Step(
            self.run.id,
            self.started_at,
            begins=None if answers else self.options.on_error,
            resumes=answers or None,
            budget=self.account.budget,
            emitted=emissions.new,
            errors=errors_of(outcome, ()),
            events=[*self.log.take_new(), *emissions.events],
        )
        steps = self._book.host.steps
        committed = await steps.begin_run(self._effects_of(step), emissions)
        if committed.outcome is CommitOutcome.GONE:
            # It has begun before. Nobody may have told this host of its end.
            await self._look()
            return
        self.note(committed, outcome.spans, outcome.dropped_spans)

    async def _look(self) -> None:
        for stored in await self._book.store.settled_runs([self.run.id]):
            self.catch_up(stored)

    # While it runs

    async def write_events(self) -> None:
        """Write what has happened to it on this host."""
        if not self.log or self._ended:
            return
        events = self.log.take_new()
        step = Step(self.run.id, time_of_day(), events=events)
        committed, _ = await self._book.host.steps.submit(self._effects_of(step))
        self.note(committed)

    def note(
        self,
        committed: StepCommitted,
        spans: tuple[tuple[Any, ...], ...] = (),
        dropped_spans: int = 0,
        spending: Mapping[int, Usage | None] = MappingProxyType({}),
    ) -> None:
        """Take note of what a step came to.

        Args:
            committed: that.
            spans: of what was handled.
            dropped_spans: how many more there were.
            spending: what messages have used by now; None: it is committed.
        """
        room = MAX_SPANS - len(self._spans)
        self._spans += spans[:room]
        self._dropped_spans += dropped_spans + max(0, len(spans) - room)
        if committed.events is not None:
            self.log.written_to(committed.events)
        self.account.note(committed.usage, spending)
        end = committed.end
        if end is not None and not self._told and end.answered == len(self.stored.answers):
            succeeded = end.status == RunStatus.SUCCEEDED
            update = {
                "status": end.status,
                "question": end.question,
                "result": end.result,
                "error": None if succeeded or not end.errors else end.errors[0],
                "errors": end.errors,
                "started_at": self.run.started_at or self.started_at,
                "finished_at": None if end.question is not None else end.at,
                "usage": self._end_counting(),
            }
            self._over(self.run.model_copy(update=update))
        elif not self._ended and (committed.usage is not None or spending):
            self._check_budget()

    def catch_up(self, stored: StoredRun) -> None:
        """Take note of what the Store says: that it has ended, waits, or was answered."""
        if self._told:
            return
        if len(stored.answers) > len(self.stored.answers):
            self.lose()  # it has waited meanwhile, and goes on as another one
        elif is_settled(stored.run):
            self.log.written_to(stored.events)
            self._over(stored.run)

    def _over(self, run: Run) -> None:
        """It has ended, or waits: nothing of it stays here."""
        self._ended = True
        self._end_counting()
        if run.status == RunStatus.BUDGET_EXCEEDED and self._stopping is None:
            self._book.host.parts.abandon(self)  # what is under way would come to nothing
        if self.account.counts:
            self._book.spawn(self._tell_when_saved(run))
        else:
            self._tell(run)
        if run.status == RunStatus.WAITING:
            return
        self._book.ended[run.status.value] += 1
        loop = asyncio.get_running_loop()
        loop.call_later(_TRACE_AFTER_S, self._keep_its_trace, run)

    async def _tell_when_saved(self, run: Run) -> None:
        await self._book.progress.save_usage([self])
        self._tell(run)

    def _keep_its_trace(self, run: Run) -> None:
        spans = tuple(self._spans)
        self._keep_trace(run, Outcome(spans=spans, dropped_spans=self._dropped_spans))

    # Being stopped

    def stop(self, status: RunStatus, why: str = "") -> None:
        """Cancel what is under way for it; it ends with this status when all of that has ended."""
        if self._ended or self._stopping is not None:
            return
        beyond = (RunStatus.TIMED_OUT, RunStatus.BUDGET_EXCEEDED)
        if status in beyond and self._answer is not None:
            self._finish()
            return
        self._stopping = status
        self._book.stop_parts(self)
        error = why_stopped(status, self.options.timeout_s, why)
        spent = tuple(self.account.under_way.items())
        self._book.spawn(self._stop(status, [error], CANCEL_GRACE_S, spent))

    def _finish(self) -> None:
        """Cancel what is left of a run that has its result."""
        if self._ended or self._finishing or self._stopping is not None:
            return
        self._finishing = True
        self._book.note_unfinished(self)
        self._book.stop_parts(self)
        self._book.spawn(self._stop(RunStatus.SUCCEEDED, [], ANSWERED_CANCEL_S))

    async def _stop(
        self,
        status: RunStatus,
        errors: Sequence[RunError],
        grace_s: float,
        spent: Sequence[tuple[int, Usage]] = (),
    ) -> None:
        await self._book.until_quiet(self, grace_s)
        await self._book.progress.save_usage([self])
        step = Step(self.run.id, time_of_day(), drops=status, errors=errors, spent=spent)
        committed, _ = await self._book.host.steps.submit(self._effects_of(step))
        if committed.outcome is CommitOutcome.GONE:  # it has ended by itself meanwhile
            await self._look()
            return
        self.note(committed)

    def _effects_of(self, step: Step) -> Effects:
        try:
            return Effects(*self._book.lease_of(self), step=step)
        except Fenced:
            self.lose()
            raise


def make_active(
    stored: StoredRun,
    book: RunBook,
    *,
    to_end: bool = False,
    lost: str = "",
) -> ActiveRun:
    """Return one host's part in a run.

    Args:
        stored: the run, which is in the Store.
        book: of the host.
        to_end: it was taken up to be ended, and for nothing else.
        lost: why the attempt before came to nothing; "": there was none.
    """
    if per_step(stored.input):
        return StepRun(stored, book, to_end=to_end)
    return ActiveRun(stored, book, to_end=to_end, lost=lost)


def per_step(given: Mapping[str, Any]) -> bool:
    """Whether a run with this input is durable per step."""
    return given.get("durability") == "step"
