"""A run that is under way on this host: its events, who watches it, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agentray import telemetry
from agentray.core.lifecycle import move
from agentray.core.output_schemas import check_output
from agentray.errors import AgentQuarantined, Fenced, OutputInvalid
from agentray.event_loop import time_of_day
from agentray.events import Event, Prompt
from agentray.ids import new_traceparent, trace_id_of
from agentray.protocol.attachments import OUTPUT_SCHEMA
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.envelope import Failure, Outcome, Reply, ReplyKind
from agentray.protocol.event_runs import (
    RETRY,
    RETRY_OF,
    OnError,
    Recording,
    RunKey,
    RunOptions,
    conversation,
    is_root,
)
from agentray.protocol.questions import Question
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus, why_stopped
from agentray.protocol.trusted import trusted
from agentray.protocol.written import Written
from agentray.runtime.asking import open_questions, without_questions
from agentray.runtime.run_budget import Account
from agentray.runtime.run_log import RunLog, as_recorded_text
from agentray.runtime.scope import Scope, failure_of
from agentray.runtime.spans import begin_run, end_run
from agentray.runtime.trace_writer import Ended
from agentray.runtime.turn import Turn
from agentray.store.base import Effects, RunEnd, StateWrite, StoredRun
from agentray.store.run_progress import Suspension

if TYPE_CHECKING:
    from agentray.runtime.run_book import RunBook

_INFRASTRUCTURE = frozenset({"HostDied", "ChannelClosed", "StoreUnavailable"})
"""Errors that say nothing about the run: it is tried again."""

_MOMENT_S = 0.001
"""After which it is looked at again whether a budget of time is used up."""

CONSEQUENCES = frozenset({"Incomplete"})
"""Errors of those who waited for what such an error took: with one, they say nothing either."""

_QUARANTINED = AgentQuarantined.__name__

ANSWERED_CANCEL_S = 1.0
"""The same in a run that has its result: nobody wants to wait for that any longer."""

CANCEL_GRACE_S = 10.0
"""How long what is cancelled may take to end; then the run ends without it."""


class ActiveRun:
    """One attempt at a run.

    A prompt is delivered to its agent as a message whose replies come here; a root event is sent to
    its subscribers, whose acknowledgements the scope gathers. Either way the last acknowledgement
    of all that was set off is the run's end.
    """

    bound = True
    """Its slot moves when it has ended; else the work goes on where that moves to."""

    def __init__(
        self,
        stored: StoredRun,
        book: RunBook,
        *,
        durable: bool = True,
        to_end: bool = False,
        lost: str = "",
        options: RunOptions | None = None,
    ) -> None:
        """Begin an attempt.

        Args:
            stored: the run.
            book: of the host.
            durable: it is in the Store; else only its end will be.
            to_end: it was taken up to be ended, and for nothing else.
            lost: why the attempt before came to nothing; "": there was none.
            options: how it is treated; None: as its input says.
        """
        self.run = stored.run
        self.agent = stored.agent
        self.stored = stored
        self.durable = durable
        self.options = RunOptions.of_input(stored.input) if options is None else options
        self.recording = _recording(self.options, durable=durable)
        self.started_at = time_of_day()
        self._to_end = to_end
        attempt = f"{self.run.id}#{self.run.attempt}"
        begun = time.time_ns() // 1000  # also where virtual time stands still
        self.key = str(RunKey(self.recording, book.host_id, attempt, begun))
        self.scope = Scope()  # of a root event; a prompt is a message, which has one of its own
        self.active: dict[int, Turn] = {}
        # What it was given with is continued; each attempt that has none begins a trace.
        given: str | None = stored.input.get("traceparent")
        spans = telemetry.active()
        self._span = spans and begin_run(spans, self.run, self.agent, given)
        self.trace_context = self._span.traceparent if self._span else given or new_traceparent()
        self.marked = False  # the Store knows that it is running
        self.event: Event | None = None  # its root event
        self.narrowed = False  # apps were stopped when it came: its event goes to the others
        self.log = RunLog(
            stored.events, durable=durable, attempt=self.run.attempt, exact=self.bound
        )
        self.places = book.places()
        self._book = book
        self._joined: list[Callable[[Run | None], None]] = []
        self.account = self._account(book.budget_of(self.agent, self.options), self.run.usage)
        self._why = ""  # it is ended, where its status does not say it
        self._stopping: RunStatus | None = None  # it is cancelled, and ends with this status
        self._answer: Any = None  # what a `TerminateEvent` told, wrapped as in an `Outcome`
        self._finishing = False  # it has its answer, and what is left of it is cancelled
        self._grace_until: float | None = None  # for what is under way, until a timer keeps it
        self._timers: list[asyncio.TimerHandle] = []
        self._ended = False  # nothing more is written for it here
        self._told = False  # those who joined know what became of it
        self._final: Run | None = None
        self._log_beginning(to_end=to_end, lost=lost)

    def _log_beginning(self, *, to_end: bool, lost: str) -> None:
        stored = self.stored
        if self.recording == Recording.NOTHING:
            return
        if stored.events == 0:
            again = {k: v for k, v in stored.input.items() if k == RETRY_OF}
            if RETRY in stored.input:
                again["dead_letter"] = stored.input[RETRY]["letter"]
            self.log.add("queued", again, self.run.created_at)
        if lost:
            attempt = self.run.attempt if to_end else self.run.attempt - 1
            self.log.add("attempt_lost", {"attempt": attempt, "reason": lost})
        if not to_end:
            began = "resumed" if stored.answers else "started"
            self.log.add(began, {"attempt": self.run.attempt, "host": self._book.host_id})

    def _account(self, budget: Budget | None, before: Usage | None) -> Account:
        return Account(budget, before)

    @property
    def by_scope(self) -> bool:
        """Whether it is an event that was sent from here, and not a prompt for an agent here."""
        return bool(self.stored.answers) or is_root(self.agent.type)

    @property
    def conversation(self) -> str:
        """The correlation of its events: it must not meet what an earlier attempt left behind."""
        return conversation(self.run)

    @property
    def is_ending(self) -> bool:
        """Whether nothing is written for it here any more, but for its end."""
        return self._ended

    def given(self) -> Mapping[str, Any]:
        """Return what it was given, as it is kept."""
        if self.durable or self.event is None:
            return self.stored.input
        return Written(partial(_given, self.event, self.options))

    # Events

    def take_pending(self) -> Effects | None:
        """Take out the events to be written now; None: there are none."""
        if not self.log or self._ended:
            return None
        return self._effects(events={self.run.id: self.log.take()})

    def on_end(self, callback: Callable[[Run | None], None]) -> None:
        """Call back with the ended run; None: this host has lost it, ask again."""
        if self._told:
            callback(self._final)
        else:
            self._joined.append(callback)

    # Being stopped

    def stop_in(self, delay_s: float) -> None:
        """Let it be ended as timed out."""
        self._after(delay_s, lambda: self.stop(RunStatus.TIMED_OUT))

    def begin_to_count(self) -> None:
        """It is worked on from now on: that counts against its budget."""
        now = asyncio.get_running_loop().time()
        self.account.begin(now)
        if self.account.budget is not None:
            self._await_end_of_time(now)

    def _await_end_of_time(self, now: float) -> None:
        if (left_s := self.account.left_s(now)) is not None:
            self._after(max(left_s, _MOMENT_S), self._check_time)

    def _check_time(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.account.left_s(now):
            # Timers are rounded, on uvloop to milliseconds: this one rang a moment too early.
            self._await_end_of_time(now)
        else:
            self._check_budget()

    def spend(self, spent: Usage) -> None:
        """Count what a handler of it has used, wherever that was."""
        if not self._ended:
            self.account.spend(spent)
            self._check_budget()

    def _check_budget(self) -> None:
        why = self.account.exceeded(asyncio.get_running_loop().time())
        if why is not None:
            self.stop(RunStatus.BUDGET_EXCEEDED, why)

    def stop(self, status: RunStatus, why: str = "") -> None:
        """Cancel all that belongs to it; it ends with this status when all of that has ended.

        Args:
            status: a terminal one.
            why: in words, where the status does not say it.
        """
        if self._ended or self._stopping is not None:
            return
        self._why = why
        beyond = (RunStatus.TIMED_OUT, RunStatus.BUDGET_EXCEEDED)
        if status in beyond and self._answer is not None:
            self._finish()
            return
        self._stopping = status
        self._cancel_parts(CANCEL_GRACE_S)

    def answered(self, answer: Any, end_grace_s: float | None, later_s: float = 0.0) -> None:
        """Take the result that a `TerminateEvent` told; the first one counts.

        Args:
            answer: JSON.
            end_grace_s: what is under way may end by itself for so long; None: for ever.
            later_s: `keep_grace` is called in so many seconds, unless it has ended by then, as
                most have: they need no timer.
        """
        if self._answer is None:
            self._answer = (answer,)
            if end_grace_s is not None:
                self._grace_until = asyncio.get_running_loop().time() + end_grace_s
                if end_grace_s <= later_s or not later_s:
                    self.keep_grace()

    def keep_grace(self) -> None:
        """Let what is under way be cancelled when its grace is over, if it has one."""
        until, self._grace_until = self._grace_until, None
        if until is not None:
            self._after(max(0.0, until - asyncio.get_running_loop().time()), self._finish)

    def _finish(self) -> None:
        """Cancel what is left of a run that has its result."""
        if self._ended or self._finishing or self._stopping is not None:
            return
        self._finishing = True
        self._book.note_unfinished(self)
        self._cancel_parts(ANSWERED_CANCEL_S)

    def _cancel_parts(self, grace_s: float) -> None:
        """Cancel all that belongs to it, and end it when that has ended, or after the grace."""
        self._after(grace_s, self._stopped)  # a handler may refuse to end
        self._book.stop_parts(self)
        if self.by_scope:
            self.scope.abandon(self._book.channel, self.settled)
        else:
            for turn in list(self.active.values()):
                self._book.cancel_turn(turn)
            if not self.active:
                self._stopped()  # nothing of it was begun here

    def _after(self, delay_s: float, callback: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(delay_s, callback))

    def _stopped(self) -> None:
        """End it with what is known of it: something of it would not end."""
        scopes = [turn.scope for turn in self.active.values() if turn.scope is not None]
        known = next(iter(scopes), self.scope)
        self.settled(known.outcome())

    # The reply sink of the prompt's message

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Take the acknowledgement of the prompt: all that it set off is done."""
        del message_id  # there is only one message
        match kind:
            case ReplyKind.MOVED:
                self.lose()
            case ReplyKind.ERROR:
                reply = Reply(0, kind, payload)
                self.settled(failure_of(reply, str(self.agent), Prompt.event_type))
            case _:
                self.settled(outcome or Outcome())

    # Ending

    def settled(self, outcome: Outcome, *, sure: bool = False) -> None:
        """Take what all that it set off came to.

        Args:
            outcome: that.
            sure: nothing is waited for that this host may not have heard of yet.
        """
        if outcome.answer is None and self._answer is not None:
            outcome = outcome._replace(answer=self._answer)
        if self.durable:
            self._book.spawn(self.end(outcome))
        elif not self._ended:
            outcome = without_questions(outcome)
            lost = self._book.lost_parts(self, outcome)
            if lost is not None and not sure and self._book.in_doubt(self, outcome):
                self._book.spawn(self._settle_when_sure(outcome))
                return
            run = self._ended_run(outcome if lost is None else Outcome(errors=(lost,)))
            self._book.keep_later(self, run)
            self._keep_trace(run, outcome)
            self._tell(run)

    async def _settle_when_sure(self, outcome: Outcome) -> None:
        await self._book.until_sure(self, outcome)
        self.settled(outcome, sure=True)

    async def end(self, outcome: Outcome, states: Sequence[StateWrite] = ()) -> bool:
        """Commit the run's end, and the agent's state with it, then tell everybody.

        Returns:
            False when it is tried again instead: nothing was written.

        Raises:
            Fenced: this host no longer leases the agent; nothing was written.
        """
        if not self._ended and self._stopping is None:
            await self._book.until_sure(self, outcome)
        if self._ended:
            return False  # it was let go meanwhile
        errors = outcome.errors
        if self._stopping is None:
            if (lost := self._book.lost_parts(self, outcome)) is not None:
                # An agent took a part of this run with it: that nothing failed means nothing.
                await self._book.taking_up.again(self, lost.message)
                return False
            if (why := _lost_by_infrastructure(errors)) is not None:
                await self._book.taking_up.again(self, why)
                return False
            if questions := open_questions(self.stored, outcome, self.options):
                await self._wait_for_answer(questions, states)
                return True
        run = self._ended_run(outcome)
        await self._commit(run, end_of(run), outcome, states)
        return True

    def _end_counting(self) -> Usage | None:
        now = asyncio.get_running_loop().time()
        self.account.end(now)
        return self.account.usage(now)

    async def _wait_for_answer(
        self, questions: Sequence[Question], states: Sequence[StateWrite]
    ) -> None:
        """Commit that it waits, and the agent's state with it; nothing of it stays here."""
        waiting = move(self.run.id, RunStatus.RUNNING, RunStatus.WAITING)
        self.log.add(waiting.value, {"question": questions[0].model_dump(mode="json")}, final=True)
        self._ended = True  # here: it goes on as another one
        events = self.log.take()
        started_at = self.run.started_at or self.started_at
        try:
            effects = self._effects(events={self.run.id: events}, states=states)
        except Fenced:
            self.lose()
            raise
        asked: dict[str, Any] = {"status": waiting, "question": questions[0]}
        asked["started_at"] = started_at
        asked["usage"] = self._end_counting()
        run = self.run.model_copy(update=asked)
        suspension = Suspension(run.id, questions, started_at)
        told = await self._book.commit_wait(self, effects, suspension, run)
        self.log.written(len(events))
        self._tell(told)

    async def give_up(self, why: Failure) -> None:
        """End it as dead."""
        outcome = Outcome(errors=(why,))
        run = self._ended_run(outcome, RunStatus.DEAD)
        await self._commit(run, end_of(run), outcome, ())

    def _ended_run(self, outcome: Outcome, status: RunStatus | None = None) -> Run:
        """End it here; return it as it ended."""
        status, result, errors = self._verdict(outcome, status)
        move(self.run.id, RunStatus.RUNNING, status)
        finished_at = time_of_day()
        error = None if status == RunStatus.SUCCEEDED or not errors else errors[0]
        # With answers, it is the same attempt that began before it asked. One that was taken up to
        # be ended begins nothing here.
        began = self.run.started_at if self.stored.answers or self._to_end else None
        started_at = began or (None if self._to_end else self.started_at)
        usage = self._end_counting()
        ended = {
            "status": status,
            "usage": usage,
            "result": result,
            "error": error,
            "errors": errors,
            "started_at": started_at,
            "finished_at": finished_at,
        }
        run = trusted(Run, {**self.run.__dict__, **ended})
        if self.recording != Recording.NOTHING:
            data: dict[str, Any] = {"result": result} if error is None else {"error": _json(error)}
            if error is None and errors:
                data["errors"] = [_json(each) for each in errors]
            if usage is not None:
                data["usage"] = usage.model_dump(mode="json")
            if self.log.unrecorded:
                data["unrecorded"] = self.log.unrecorded
            self.log.add(status.value, data, finished_at, final=True)
        self._ended = True
        for timer in self._timers:
            timer.cancel()
        return run

    def _verdict(
        self, outcome: Outcome, status: RunStatus | None
    ) -> tuple[RunStatus, Any, tuple[RunError, ...]]:
        """Return how it ends: its status, its result and its errors."""
        if self._stopping is not None:
            return (
                self._stopping,
                None,
                (why_stopped(self._stopping, self.options.timeout_s, self._why),),
            )
        errors = tuple(_run_error(failure) for failure in outcome.errors)
        if outcome.more_errors:
            text = f"{outcome.more_errors} more errors are not listed."
            errors += (RunError(type="MoreErrors", message=text),)
        if status is None:
            failed = bool(errors) and self.options.on_error == OnError.FAIL
            status = RunStatus.FAILED if failed else RunStatus.SUCCEEDED
            if failed and self.run.attempt > 1 and any(e.type == _QUARANTINED for e in errors):
                status = RunStatus.DEAD  # it has lost hosts, and is why the agent is quarantined
        answer = outcome.answer if status == RunStatus.SUCCEEDED else None
        result = None if answer is None else answer[0]
        schema = self.stored.input.get(OUTPUT_SCHEMA)
        if schema is not None and status == RunStatus.SUCCEEDED:
            try:
                check_output(result, schema)
            except OutputInvalid as error:
                told = RunError(type="OutputInvalid", message=str(error), agent=str(self.agent))
                return RunStatus.FAILED, None, (told, *errors)
        return status, result, errors

    async def _commit(
        self,
        run: Run,
        end: RunEnd,
        outcome: Outcome,
        states: Sequence[StateWrite],
    ) -> None:
        """Commit a terminal status; the trace follows it."""
        events = self.log.take()
        try:
            effects = self._effects(events={self.run.id: events}, end=end, states=states)
        except Fenced:
            self.lose()
            raise
        ended = await self._book.commit_end(self, effects, run)
        self.log.written(len(events))
        if ended is run:  # else another attempt has ended it, which has its own trace
            self._keep_trace(run, outcome)
        self._tell(ended)

    def _keep_trace(self, run: Run, outcome: Outcome) -> None:
        if not outcome.spans:
            return
        trace_id = trace_id_of(self.trace_context)
        self._book.traces.keep(Ended(run, trace_id, outcome.spans, outcome.dropped_spans))

    def lose(self) -> None:
        """Let go of it: another host leases the agent, and works on the run or will."""
        self._ended = True
        self._tell(None)

    def hand_over(self, run: Run | None) -> None:
        """End this attempt with what a later one came to."""
        self._ended = True
        self._tell(run)

    def _tell(self, run: Run | None) -> None:
        for timer in self._timers:
            timer.cancel()
        self._book.forget(self)
        self.log.end()
        if self._span is not None and not self._told:
            end_run(self._span, run)
        self._told, self._final = True, run
        joined, self._joined = self._joined, []
        for callback in joined:
            callback(run)
        if self.run.session is not None:
            self._book.host.sessions.look(self.run.session)  # it is the next one's turn

    def _effects(
        self,
        *,
        events: Mapping[str, Sequence[RunEvent]],
        end: RunEnd | None = None,
        states: Sequence[StateWrite] = (),
    ) -> Effects:
        return Effects(*self._book.lease_of(self), states, events, end)


def _recording(options: RunOptions, *, durable: bool) -> Recording:
    if options.trace:
        return Recording.LIVE
    if options.events:
        return Recording.EVENTS
    return Recording.TRACE if durable else Recording.NOTHING


def end_of(run: Run) -> RunEnd:
    """Return what is to be written of a run that has ended."""
    at = run.started_at, run.finished_at or run.created_at
    return RunEnd(run.id, run.status, run.result, run.error, *at, errors=run.errors)


def _given(event: Event, options: RunOptions) -> str:
    return f'{{"event":{as_recorded_text(event)},{options.text[1:]}'


def _run_error(failure: Failure) -> RunError:
    agent = failure.agent or None
    return RunError(type=failure.type, message=failure.message, agent=agent, path=failure.path)


def _json(error: RunError) -> dict[str, Any]:
    return error.model_dump(mode="json")


def _lost_by_infrastructure(errors: Sequence[Failure]) -> str | None:
    """Return why a run is tried again, when it has no error that is its own; None: it has one."""
    first = next((str(error.message) for error in errors if error.type in _INFRASTRUCTURE), None)
    if all(error.type in _INFRASTRUCTURE | CONSEQUENCES for error in errors):
        return first
    return None
