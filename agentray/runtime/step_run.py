"""A run that is durable per step, as the host sees it that works on it.

That is to say: that begins it, keeps its timeout, tells its end to those who wait, and stops it.
The work itself is done wherever its messages are handled, and goes on when this host is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentray.core.lifecycle import TERMINAL
from agentray.errors import Fenced, PayloadError, UnknownEventType
from agentray.ids import AgentId
from agentray.protocol.envelope import Failure, Outcome
from agentray.protocol.event_runs import step_key
from agentray.protocol.runs import Run, RunError, RunStatus, why_stopped
from agentray.runtime.active_run import ANSWERED_CANCEL_S, CANCEL_GRACE_S, ActiveRun
from agentray.runtime.message import Origin
from agentray.runtime.requests import request_of
from agentray.runtime.scope import MAX_SPANS
from agentray.runtime.step_emissions import Emissions, errors_of
from agentray.store.base import CommitOutcome, Effects, StoredRun
from agentray.store.steps import Step, StepEnd

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
        self._writing = asyncio.Lock()

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
        origin = Origin(
            run.correlation_id,
            None,
            None,
            (),
            self.agent,
            self.trace_context,
            self.key,
            self.options.access,
        )
        emissions = self.scope.step or Emissions()
        emissions.add(AgentId(*self.agent), prompt, origin)
        self.settled(Outcome())

    def settled(self, outcome: Outcome, *, sure: bool = False) -> None:
        """Commit what it begins with; where it has begun before, that goes on."""
        del sure
        self._book.spawn(self._begin(outcome))

    async def _begin(self, outcome: Outcome) -> None:
        emissions = self.scope.step or Emissions()
        step = Step(
            self.run.id,
            self.started_at,
            begins=self.options.on_error,
            emitted=emissions.new,
            errors=errors_of(outcome, ()),
            events=[*self.log.take_new(), *emissions.events],
        )
        steps = self._book.host.steps
        committed = await steps.begin_run(self._effects_of(step), emissions)
        if committed.outcome is CommitOutcome.GONE:
            # It has begun before. Nobody may have told this host of its end.
            found = await self._book.store.ended_runs([self.run.id])
            if found:
                self.has_ended(found[0])
            return
        self.note(committed.events, committed.end, outcome.spans, outcome.dropped_spans)

    # While it runs

    async def write_events(self) -> None:
        """Write what has happened to it on this host."""
        if not self.log or self._ended:
            return
        events = self.log.take_new()
        step = Step(self.run.id, datetime.now(UTC), events=events)
        committed, _ = await self._book.host.steps.submit(self._effects_of(step))
        self.note(committed.events, committed.end)

    def note(
        self,
        events: int | None,
        end: StepEnd | None = None,
        spans: tuple[tuple[Any, ...], ...] = (),
        dropped_spans: int = 0,
    ) -> None:
        """Take note of what a step came to.

        Args:
            events: how many the run has now; None: as many as before.
            end: how it has ended; None: it has not.
            spans: of what was handled.
            dropped_spans: how many more there were.
        """
        room = MAX_SPANS - len(self._spans)
        self._spans += spans[:room]
        self._dropped_spans += dropped_spans + max(0, len(spans) - room)
        if events is not None:
            self.log.written_to(events)
        if end is not None and not self._told:
            succeeded = end.status == RunStatus.SUCCEEDED
            update = {
                "status": end.status,
                "result": end.result,
                "error": None if succeeded or not end.errors else end.errors[0],
                "errors": end.errors,
                "started_at": self.started_at,
                "finished_at": end.finished_at,
            }
            self._over(self.run.model_copy(update=update))

    def has_ended(self, stored: StoredRun) -> None:
        """Take note of the end as the Store has it."""
        if not self._told:
            self.log.written_to(stored.events)
            self._over(stored.run)

    def _over(self, run: Run) -> None:
        assert run.status in TERMINAL  # noqa: S101
        self._ended = True
        self._book.ended[run.status.value] += 1
        self._tell(run)
        loop = asyncio.get_running_loop()
        loop.call_later(_TRACE_AFTER_S, self._keep_its_trace, run)

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
        self._book.spawn(self._stop(status, [error], CANCEL_GRACE_S))

    def _finish(self) -> None:
        """Cancel what is left of a run that has its result."""
        if self._ended or self._finishing or self._stopping is not None:
            return
        self._finishing = True
        self._book.note_unfinished(self)
        self._book.stop_parts(self)
        self._book.spawn(self._stop(RunStatus.SUCCEEDED, [], ANSWERED_CANCEL_S))

    async def _stop(self, status: RunStatus, errors: Sequence[RunError], grace_s: float) -> None:
        await self._book.until_quiet(self, grace_s)
        step = Step(self.run.id, datetime.now(UTC), drops=status, errors=errors)
        committed, _ = await self._book.host.steps.submit(self._effects_of(step))
        if committed.outcome is CommitOutcome.GONE:  # it has ended by itself meanwhile
            for stored in await self._book.store.ended_runs([self.run.id]):
                self.has_ended(stored)
            return
        self.note(committed.events, committed.end)

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
    durable: bool = True,
    to_end: bool = False,
    lost: str = "",
) -> ActiveRun:
    """Return one host's part in a run.

    Args:
        stored: the run.
        book: of the host.
        durable: it is in the Store; else only its end will be.
        to_end: it was taken up to be ended, and for nothing else.
        lost: why the attempt before came to nothing; "": there was none.
    """
    if durable and per_step(stored.input):
        return StepRun(stored, book, to_end=to_end)
    return ActiveRun(stored, book, durable=durable, to_end=to_end, lost=lost)


def per_step(given: Mapping[str, Any]) -> bool:
    """Whether a run with this input is durable per step."""
    return given.get("durability") == "step"
