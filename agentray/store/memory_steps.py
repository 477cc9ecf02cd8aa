"""Runs that are durable per step, in memory: what the function `commit_step_effects` does."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from agentray.core.budgets import exceeded
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.questions import Question
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import CommitOutcome, Effects, HostRow, StoredRun
from agentray.store.codec import (
    EncodedEnd,
    decode,
    decode_models,
    encode,
    encode_errors,
    encode_models,
    encode_optional,
)
from agentray.store.steps import (
    MAX_ERRORS,
    MAX_RECORDED,
    KeptMessage,
    NewMessage,
    NewRunEvent,
    Step,
    StepCommitted,
    StepEnd,
)

_NO_EPOCH = -1


@dataclass(slots=True)
class _Message:
    new: NewMessage
    held: bool = False
    attempts: int = 0
    host: str | None = None


@dataclass(slots=True)
class _StepRun:
    on_error: str
    started_at: datetime
    budget: Budget | None = None
    answered: int = 0
    emitted: int = 0
    messages: dict[int, _Message] = field(default_factory=dict[int, _Message])
    closed: bool = False
    answer: str | None = None
    errors: list[RunError] = field(default_factory=list[RunError])
    recorded: int = 0
    unrecorded: int = 0
    forced: tuple[RunStatus, tuple[RunError, ...]] | None = None  # how it ends, whatever is left

    @property
    def nothing_left(self) -> bool:
        return all(message.held for message in self.messages.values())

    def waits_for(self, questions: Sequence[Question]) -> bool:
        """Whether it shall wait for an answer when nothing is left of it."""
        failed = self.on_error == "fail" and bool(self.errors)
        return bool(questions) and self.answer is None and self.forced is None and not failed

    def kept_errors(self) -> list[RunError]:
        more = len(self.errors) - MAX_ERRORS
        if more <= 0:
            return self.errors
        told = RunError(type="MoreErrors", message=f"{more} more errors are not listed.")
        return [*self.errors[:MAX_ERRORS], told]


class MemorySteps:
    """The part of `MemoryStore` for them."""

    _runs: dict[str, Any]
    _hosts: dict[str, HostRow]

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[str, _StepRun] = {}

    @abstractmethod
    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        """See `MemoryStore`."""

    @abstractmethod
    def _holds(self, host: str, pool: str, slot: int, epoch: int) -> bool: ...

    @abstractmethod
    def _bury_dead(self, ended: Iterable[str]) -> None: ...

    async def commit_steps(self, host: str, batch: Sequence[Effects]) -> list[StepCommitted]:
        """Apply effects as `commit` does, some of them with a step; in one transaction."""
        for effects in batch:
            _check(effects.step)
        leased = [self._holds(host, e.pool, e.slot, e.epoch) for e in batch]
        gone = list(self._gone(batch, leased))
        masked = [
            replace(e, epoch=_NO_EPOCH) if is_gone else e
            for e, is_gone in zip(batch, gone, strict=True)
        ]
        outcomes = await self.commit(host, masked)  # raises before anything has changed
        judged = [
            CommitOutcome.GONE if is_gone and holds else outcome
            for outcome, is_gone, holds in zip(outcomes, gone, leased, strict=True)
        ]
        written = [
            e.step
            for e, outcome in zip(batch, judged, strict=True)
            if e.step is not None and outcome is CommitOutcome.COMMITTED
        ]
        numbers = self._apply(written)
        changes = self._tell(written)
        return list(_committed(batch, judged, numbers, changes))

    def _gone(self, batch: Sequence[Effects], leased: Sequence[bool]) -> Iterator[bool]:
        """Go through whether the effects come too late."""
        seen: set[tuple[str, int | None, int | None]] = set()
        for effects, holds in zip(batch, leased, strict=True):
            step = effects.step
            if step is None or step.begins is step.handled is step.drops is step.resumes is None:
                yield False
                continue
            what = (step.run_id, step.handled, step.resumes)
            row = self._runs.get(step.run_id)
            known = self._steps.get(step.run_id)
            unfinished = row is not None and row.end is None and holds
            if step.drops is not None:
                yield not unfinished
                continue
            if step.begins is not None:
                there = known is None and unfinished
            elif step.resumes is not None:
                there = known is not None and known.answered < step.resumes
            else:
                there = known is not None and step.handled in known.messages
            yield what in seen or not there
            seen.add(what)

    def _apply(self, steps: Sequence[Step]) -> Iterator[int | None]:
        """Apply steps to the messages of their runs; return the numbers of what they emit."""
        numbers: list[int | None] = []
        known = self._steps
        answered = {i for i in known.keys() & {s.run_id for s in steps} if known[i].answer}
        for step in steps:
            if step.begins is not None or step.drops is not None:
                new = _StepRun(step.begins or "fail", step.at, step.budget)
                self._steps.setdefault(step.run_id, new)
            run = self._steps.get(step.run_id)
            for new in step.emitted:
                if run is None or run.closed:
                    numbers.append(None)
                    continue
                run.emitted += 1
                run.messages[run.emitted] = _Message(new)
                numbers.append(run.emitted)
            if run is None:
                continue
            if step.drops is not None and run.forced is None:
                run.forced = (step.drops, tuple(step.errors))
            run.closed = run.closed or step.closes
            run.answer = run.answer or (encode(step.answer[0]) if step.answer else None)
            run.errors.extend(step.errors)
            if step.resumes is not None:
                run.answered = max(run.answered, step.resumes)
            self._ask(step)
        self._spend(steps, answered)
        for step in steps:
            self._finish(step)
        return iter(numbers)

    def _ask(self, step: Step) -> None:
        """Add questions to those that are open."""
        row = self._runs[step.run_id]
        if step.asked and row.end is None:
            asked = [*decode_models(Question, row.questions), *step.asked]
            self._runs[step.run_id] = replace(row, questions=encode_models(asked))

    def _spend(self, steps: Sequence[Step], answered: AbstractSet[str]) -> None:
        """Count what was used, once for each message; end runs that may not use that much.

        Not those that had been answered before: a step that answers has used that first.
        """
        counted: set[tuple[str, int]] = set()
        spending = [step for step in steps if step.spent and step.run_id in self._steps]
        for step in spending:
            run, row = self._steps[step.run_id], self._runs[step.run_id]
            for number, used in step.spent:
                if number is not None:
                    if number not in run.messages or (step.run_id, number) in counted:
                        continue
                    counted.add((step.run_id, number))
                row = replace(row, usage=(row.usage or Usage()).plus(used))
            self._runs[step.run_id] = row
        for step in spending:
            run, usage = self._steps[step.run_id], self._runs[step.run_id].usage
            if run.budget is None or usage is None or step.run_id in answered or run.forced:
                continue
            why = exceeded(run.budget.model_copy(update={"wall_s": None}), usage)
            if why is not None:
                error = RunError(type="BudgetExceeded", message=why)
                run.forced = (RunStatus.BUDGET_EXCEEDED, (error,))

    def _finish(self, step: Step) -> None:
        """Take out what is done with a step."""
        run = self._steps.get(step.run_id)
        if run is None:
            return
        done = [*step.settles]
        if step.handled is not None and step.holds is None:
            done.append(step.handled)
        elif step.handled in run.messages:
            holder = run.messages[step.handled].new.agent
            for number, message in run.messages.items():
                if message.new.agent == holder:
                    message.held = number in (step.holds or ())
        for number in done:
            run.messages.pop(number, None)

    def _tell(self, steps: Sequence[Step]) -> dict[str, tuple[int, StepEnd | None, Usage | None]]:
        """Add events to runs, and end those of which nothing is left, or let them wait."""
        at: dict[str, datetime] = {}
        told: defaultdict[str, list[NewRunEvent]] = defaultdict(list)
        before = {run_id: run.recorded for run_id, run in self._steps.items()}
        for step in steps:
            run = self._steps.get(step.run_id)
            if run is None:
                continue
            at[step.run_id] = max(at.get(step.run_id, step.at), step.at)
            if step.recorded and before[step.run_id] >= MAX_RECORDED:
                run.unrecorded += len(step.events)
                continue
            if step.recorded:
                run.recorded += len(step.events)
            told[step.run_id] += step.events
        changes: dict[str, tuple[int, StepEnd | None, Usage | None]] = {}
        spenders = {step.run_id for step in steps if step.spent}
        for run_id, last in at.items():
            run, row = self._steps[run_id], self._runs[run_id]
            end = _end_of(row, run, last)
            events = told[run_id] + ([_last_event(row, run, end)] if end else [])
            if not events and run_id not in spenders:
                continue
            pieces = [_event(len(row.events) + n, event) for n, event in enumerate(events)]
            row = replace(row, events=(*row.events, *pieces))
            if end is not None and end.question is not None:
                began = row.started_at or run.started_at
                row = replace(row, status=RunStatus.WAITING, host="", started_at=began)
            elif end is not None:
                row = _ended(row, run, end)
                del self._steps[run_id]
            self._runs[run_id] = row
            if end is not None and end.question is None:
                self._bury_dead([run_id])
            changes[run_id] = (len(row.events), end, row.usage)
        return changes

    def _drop_steps(self, run_id: str) -> None:
        """Forget what is left of a run that was ended without its messages."""
        self._steps.pop(run_id, None)

    async def load_messages(
        self,
        agent_types: Sequence[str],
        slots: Sequence[int],
        *,
        after: tuple[str, int] = ("", 0),
        limit: int = 500,
    ) -> list[KeptMessage]:
        """Return messages for agents of these types in these slots."""
        wanted = set(slots)
        found = [
            KeptMessage(run_id, n, m.new.agent, m.new.event, m.new.about, m.attempts)
            for run_id in sorted(self._steps)
            for n, m in sorted(self._steps[run_id].messages.items())
            if m.new.agent.type in agent_types and m.new.slot in wanted and (run_id, n) > after
        ]
        return found[:limit]

    async def begin_messages(
        self, host: str, messages: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], int]:
        """Note that a host begins messages, by run and number; return the attempts of each."""
        attempts: dict[tuple[str, int], int] = {}
        for run_id, number in messages:
            run = self._steps.get(run_id)
            message = None if run is None else run.messages.get(number)
            if message is None:
                continue
            message.attempts += message.host not in (None, host)
            message.host = host
            attempts[run_id, number] = message.attempts
        return attempts

    async def settled_runs(self, run_ids: Sequence[str]) -> list[StoredRun]:
        """Return those of the runs that have ended, wait for an answer, or were answered."""
        rows = [self._runs[run_id] for run_id in run_ids if run_id in self._runs]
        return [
            row.stored_run
            for row in rows
            if row.end is not None or row.status is RunStatus.WAITING or row.answers
        ]


def _check(step: Step | None) -> None:
    """Raise what a database would, before anything is written."""
    if step is not None:
        for event in step.events:
            encode(event.data)
        if step.answer is not None:
            encode(step.answer[0])
        encode_models(step.asked)


def _committed(
    batch: Sequence[Effects],
    outcomes: Sequence[CommitOutcome],
    numbers: Iterator[int | None],
    changes: dict[str, tuple[int, StepEnd | None, Usage | None]],
) -> Iterator[StepCommitted]:
    for effects, outcome in zip(batch, outcomes, strict=True):
        step = effects.step
        if step is None:
            yield StepCommitted(outcome)
        elif outcome is not CommitOutcome.COMMITTED:
            yield StepCommitted(outcome, [None for _ in step.emitted])
        else:
            its_own = [next(numbers) for _ in step.emitted]
            yield StepCommitted(outcome, its_own, *changes.pop(step.run_id, (None, None, None)))


def _end_of(row: Any, run: _StepRun, at: datetime) -> StepEnd | None:
    """Return how a run ends, or what it waits for; None: it goes on."""
    if run.forced is None:
        answers: Sequence[Any] = decode(row.answers) or ()
        if (
            not run.nothing_left
            or row.status is RunStatus.WAITING
            or run.answered != len(answers)  # it has not gone on yet with what it was told
        ):
            return None
        questions = decode_models(Question, row.questions)
        if run.waits_for(questions):
            asked = questions[0]
            return StepEnd(RunStatus.WAITING, None, (), at, asked, run.answered)
    return _end(run, at)


def _end(run: _StepRun, at: datetime) -> StepEnd:
    if run.forced is not None and run.forced[0] != RunStatus.SUCCEEDED:
        status, its_errors = run.forced
        return StepEnd(status, None, its_errors, at, answered=run.answered)
    errors = tuple(run.kept_errors())
    if errors and run.on_error == "fail":
        return StepEnd(RunStatus.FAILED, None, errors, at, answered=run.answered)
    return StepEnd(RunStatus.SUCCEEDED, decode(run.answer), errors, at, answered=run.answered)


def _last_event(row: Any, run: _StepRun, end: StepEnd) -> NewRunEvent:
    if end.question is not None:
        asked = {"question": end.question.model_dump(mode="json")}
        return NewRunEvent(end.status.value, end.at, asked)
    errors = [error.model_dump(mode="json") for error in end.errors]
    data: dict[str, Any]
    if end.status != RunStatus.SUCCEEDED and errors:
        data = {"error": errors[0]}
    else:
        data = {"result": end.result, **({"errors": errors} if errors else {})}
    if row.usage is not None:
        data["usage"] = row.usage.model_dump(mode="json")
    if run.unrecorded:
        data["unrecorded"] = run.unrecorded
    return NewRunEvent(end.status.value, end.at, data)


def _event(offset: int, event: NewRunEvent) -> str:
    about = {"kind": event.kind, "time": event.time.isoformat(), "data": event.data}
    return encode({"offset": offset, **about})


def _ended(row: Any, run: _StepRun, end: StepEnd) -> Any:
    return replace(
        row,
        status=end.status,
        started_at=row.started_at or run.started_at,
        end=EncodedEnd(
            status=end.status.value,
            result=encode_optional(end.result),
            error=encode_errors(end.errors),
            started_at=row.started_at or run.started_at,
            finished_at=end.at,
        ),
    )
