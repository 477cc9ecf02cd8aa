"""Runs that are durable per step, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg

from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Question
from agentray.protocol.runs import RunStatus
from agentray.store import rows
from agentray.store.arrays import arrays
from agentray.store.base import CommitOutcome, Effects, StoredRun
from agentray.store.codec import decode, encode, encode_models, encode_optional, errors_of
from agentray.store.database import Database, Row, error_of_commit
from agentray.store.steps import (
    MAX_ERRORS,
    MAX_RECORDED,
    KeptMessage,
    NewRunEvent,
    Step,
    StepCommitted,
    StepEnd,
)


class PostgresSteps:
    """The part of `PostgresStore` for them."""

    _database: Database

    async def commit_steps(self, host: str, batch: Sequence[Effects]) -> list[StepCommitted]:
        """Apply effects as `commit` does, some of them with a step; in one transaction."""
        if not batch:
            return []
        arguments = arrays([*rows.effects_columns(batch), *_step_columns(batch)])
        try:
            row = await self._database.fetch_row(
                "commit_step_effects", host, *arguments, MAX_ERRORS, MAX_RECORDED
            )
        except asyncpg.PostgresError as error:
            raise error_of_commit(error) from error
        assert row is not None  # noqa: S101 - a function that is called returns
        return list(_committed(batch, row))

    async def load_messages(
        self,
        agent_types: Sequence[str],
        slots: Sequence[int],
        *,
        after: tuple[str, int] = ("", 0),
        limit: int = 500,
    ) -> list[KeptMessage]:
        """Return messages for agents of these types in these slots."""
        found = await self._database.fetch(
            "load_messages", list(agent_types), list(slots), *after, limit
        )
        return [
            KeptMessage(
                row["run_id"],
                row["number"],
                rows.agent_of(row),
                row["event"],
                row["about"],
                row["attempts"],
            )
            for row in found
        ]

    async def begin_messages(
        self, host: str, messages: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], int]:
        """Note that a host begins messages, by run and number; return the attempts of each."""
        found = await self._database.fetch("begin_messages", host, *rows.columns(messages, 2))
        return {(row["run_id"], row["number"]): row["attempts"] for row in found}

    async def settled_runs(self, run_ids: Sequence[str]) -> list[StoredRun]:
        """Return those of the runs that have ended, wait for an answer, or were answered."""
        found = await self._database.fetch("settled_runs", list(run_ids))
        return [rows.stored_run_of(row) for row in found]


def told_event(event: NewRunEvent) -> str:
    """Return a run event as JSON, without what comes before its kind: its offset.

    Raises:
        PayloadError: it has no JSON.
    """
    about = {"kind": event.kind, "time": event.time.isoformat(), "data": event.data}
    return encode(about)[1:]


def _step_columns(batch: Sequence[Effects]) -> list[list[Any]]:
    """Return the arguments of `commit_step_effects` that `commit_effects` has not."""
    steps = [(item, e.step) for item, e in enumerate(batch, 1) if e.step is not None]
    about = [
        (
            *(item, step.run_id, step.at, step.begins, step.handled),
            *(
                step.holds is not None,
                None if step.answer is None else encode(step.answer[0]),
                step.closes,
            ),
            *(_errors(step), step.recorded, step.drops and step.drops.value),
        )
        for item, step in steps
    ]
    held = [(k, n) for k, (_, step) in enumerate(steps, 1) for n in step.holds or ()]
    settled = [(k, n) for k, (_, step) in enumerate(steps, 1) for n in step.settles]
    sent = [
        (k, *new.agent, new.slot, new.event, new.about)
        for k, (_, step) in enumerate(steps, 1)
        for new in step.emitted
    ]
    told = [(k, told_event(e)) for k, (_, step) in enumerate(steps, 1) for e in step.events]
    more = [
        (
            step.resumes,
            None if step.budget is None else step.budget.model_dump_json(exclude_none=True),
            encode_models(step.asked) if step.asked else None,
        )
        for _, step in steps
    ]
    spent = [
        (k, number, used.model_dump_json())
        for k, (_, step) in enumerate(steps, 1)
        for number, used in step.spent
    ]
    return [
        *rows.columns(about, 11),
        *rows.columns(held, 2),
        *rows.columns(settled, 2),
        *rows.columns(sent, 6),
        *rows.columns(told, 2),
        *rows.columns(more, 3),
        *rows.columns(spent, 3),
    ]


def _errors(step: Step) -> str | None:
    return encode_optional([error.model_dump(mode="json") for error in step.errors] or None)


def _committed(batch: Sequence[Effects], row: Row) -> Iterator[StepCommitted]:
    numbers = iter(row["numbers"] or ())
    changed = {run_id: place for place, run_id in enumerate(row["changed"])}
    for effects, text in zip(batch, row["outcomes"], strict=True):
        outcome, step = CommitOutcome(text), effects.step
        if step is None:
            yield StepCommitted(outcome)
            continue
        its_own = [next(numbers) for _ in step.emitted]
        place = None
        if outcome is CommitOutcome.COMMITTED:
            place = changed.pop(step.run_id, None)  # told once
        if place is None:
            yield StepCommitted(outcome, its_own)
        else:
            usage = decode(row["changed_usages"][place])
            yield StepCommitted(
                outcome,
                its_own,
                row["changed_events"][place],
                _end(row, place),
                None if usage is None else Usage.model_validate(usage),
            )


def _end(row: Row, place: int) -> StepEnd | None:
    answered, asked = row["changed_answered"][place], decode(row["changed_questions"][place])
    if asked is not None:
        question = Question.model_validate(asked)
        return StepEnd(RunStatus.WAITING, None, (), row["changed_at"][place], question, answered)
    finished_at = row["changed_at"][place]
    if finished_at is None:
        return None
    status = RunStatus(row["changed_statuses"][place])
    errors = errors_of(status, row["changed_errors"][place])["errors"]
    result = decode(row["changed_results"][place])
    return StepEnd(status, result, errors, finished_at, answered=answered)
