"""Rows of the PostgreSQL store: made of what callers give, and turned back into it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from agentray.ids import AgentId
from agentray.protocol.budgets import Usage
from agentray.protocol.launching import AgentStatus
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceSummary
from agentray.store.base import (
    AppRow,
    Effects,
    EndedRun,
    HostRow,
    LaunchedAgent,
    LaunchedWrite,
    NewRun,
    PoolRow,
    SlotLease,
    StateWrite,
    StoredRun,
)
from agentray.store.codec import (
    Touch,
    decode,
    decode_models,
    decode_spans,
    encode,
    encode_object,
    encode_spans,
    errors_of,
    progress_of,
    touch_of,
    touches,
)
from agentray.store.database import Row


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return rows as columns, the form in which many rows are one statement's arguments."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]


def new_run_columns(runs: Iterable[NewRun]) -> list[list[Any]]:
    """Return the arguments of `insert_runs`."""
    return columns(
        (
            (
                *(run.id, *run.agent, run.pool, run.slot, encode_object(run.input)),
                *(run.correlation_id, run.owner, run.idempotency_key, run.digest, run.created_at),
                *(run.deadline, run.not_before, run.schedule, run.in_turn),
            )
            for run in runs
        ),
        15,
    )


def ended_run_columns(runs: Iterable[EndedRun]) -> list[list[Any]]:
    """Return the arguments of `keep_ended`.

    Raises:
        ValueError: the offsets of the events have a gap, or the end is none.
        PayloadError: a value has no JSON, or a text cannot be stored.
    """
    return columns(
        (
            (
                *(run.id, *run.agent, run.pool, run.slot, encode_object(run.input)),
                *(run.correlation_id, run.owner, run.digest, run.created_at),
                *_touch_row(0, touch)[2:],
            )
            for run, touch in ((ended.new, touch_of(ended)) for ended in runs)
        ),
        18,
    )


def launched_columns(writes: Iterable[LaunchedWrite]) -> list[list[Any]]:
    """Return the arguments of `keep_launched` after the host."""
    return columns(
        (
            (
                *(write.pool, write.slot, write.epoch, write.forget, write.delete_state),
                *(*write.launched.agent, write.launched.arguments),
                *(encode(dict(write.launched.labels)), write.launched.launched_at),
                *(write.launched.status.value, *(write.launched.owner or (None, None))),
                *(write.launched.driver, write.launched.last_error),
                *(encode(dict(write.launched.options)), write.launched.max_retries),
            )
            for write in writes
        ),
        17,
    )


def state_columns(states: Iterable[StateWrite]) -> list[list[Any]]:
    """Return the arguments of `put_states`."""
    return columns(((*w.agent, encode(dict(w.state)), w.schema_version) for w in states), 4)


def subscription_columns(subscription: TopicSubscription) -> tuple[Any, ...]:
    """Return the arguments of `put_subscription`."""
    wish = subscription.wish
    digest = hashlib.sha256(encode(wish).encode()).hexdigest()
    return (subscription.id, *wish, subscription.created_at, digest)


def trace_columns(traces: Iterable[RunTrace]) -> list[list[Any]]:
    """Return the arguments of `put_traces`."""
    return columns(
        (
            (
                *(of.run, of.correlation_id, of.trace_id, of.agent, of.status.value),
                *(of.started_at, of.duration_ms, of.spans, of.dropped_spans, of.errors),
                *(encode(of.agent_types), encode(of.events), encode_spans(trace.spans)),
            )
            for trace in traces
            for of in (trace.summary,)
        ),
        13,
    )


def effects_columns(batch: Sequence[Effects]) -> list[list[Any]]:
    """Return the arguments of `commit_effects` after the host.

    Raises:
        ValueError: the offsets of the events have a gap, or the end is none.
        PayloadError: a value has no JSON.
    """
    touched = [touches(effects) for effects in batch]
    items = [(e.pool, e.slot, e.epoch, len(t)) for e, t in zip(batch, touched, strict=True)]
    places: dict[str, int] = {}  # of each run in the list of runs, from 1 as PostgreSQL counts
    changes = [
        _touch_row(places.setdefault(touch.run_id, len(places) + 1), touch)
        for of_item in touched
        for touch in of_item
    ]
    states = [
        (item, *write.agent, encode(dict(write.state)), write.schema_version)
        for item, effects in enumerate(batch, 1)
        for write in effects.states
    ]
    return [*columns(items, 4), list(places), *columns(changes, 10), *columns(states, 5)]


def _touch_row(run: int, touch: Touch) -> tuple[Any, ...]:
    chunk = f"[{','.join(touch.events)}]"
    row = (run, touch.first_offset, len(touch.events), chunk)
    end = touch.end
    if end is None:
        return (*row, None, None, None, None, None, None)
    # Traces are written by `put_traces`; what the function has a place for stays empty.
    return (*row, end.status, end.result, end.error, None, end.started_at, end.finished_at)


def run_of(row: Row) -> Run:
    """Return the run of a row."""
    return Run(
        id=row["id"],
        status=row["status"],
        agent=str(agent_of(row)),
        result=decode(row["result"]),
        attempt=row["attempt"],
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        not_before=row["not_before"],
        schedule=row["schedule"],
        session=row["session"],
        **errors_of(RunStatus(row["status"]), row["error"]),
        **progress_of(RunStatus(row["status"]), row["questions"], usage_of(row)),
    )


def is_held(row: Row) -> bool:
    """Whether the run of a row waits for its turn in a session."""
    return row["delayed"] and row["session"] is not None and row["finished_at"] is None


def usage_of(row: Row) -> Usage | None:
    """Return what the run of a row has used; None: nothing was counted."""
    usage = decode(row["usage"])
    return None if usage is None else Usage.model_validate(usage)


def stored_run_of(row: Row) -> StoredRun:
    """Return the run of a row with what a host needs."""
    return StoredRun(
        run=run_of(row),
        agent=agent_of(row),
        pool=row["pool"],
        slot=row["slot"],
        input=decode(row["input"]),
        events=row["events"],
        owner=row["owner"],
        cancelled=row["cancel_requested"] is not None,
        delayed=row["delayed"],
        questions=decode_models(Question, row["questions"]),
        answers=decode_models(Answer, row["answers"]),
    )


def agent_of(row: Row) -> AgentId:
    """Return the agent of a row."""
    return AgentId(row["agent_type"], row["agent_key"])


def state_of(row: Row) -> StateWrite:
    """Return the agent's state of a row."""
    return StateWrite(agent_of(row), decode(row["state"]), row["schema_version"])


def host_of(row: Row) -> HostRow:
    """Return the host of a row."""
    return HostRow(**dict(row))


def lease_of(row: Row) -> SlotLease:
    """Return the lease of a row."""
    return SlotLease(**dict(row))


def app_of(row: Row) -> AppRow:
    """Return the app of a row."""
    return AppRow(**dict(row))


def pool_of(row: Row) -> PoolRow:
    """Return the pool of a row."""
    return PoolRow(**dict(row))


def subscription_of(row: Row) -> TopicSubscription:
    """Return the subscription of a row."""
    return TopicSubscription(**dict(row))


def launched_of(row: Row) -> LaunchedAgent:
    """Return the launched agent of a row."""
    owner = row["owner_type"]
    return LaunchedAgent(
        agent_of(row),
        row["arguments"],
        row["launched_at"],
        decode(row["labels"]),
        AgentStatus(row["status"]),
        None if owner is None else AgentId(owner, row["owner_key"]),
        row["driver"],
        row["last_error"],
        decode(row["options"]),
        row["max_retries"],
    )


def trace_summary_of(row: Row) -> TraceSummary:
    """Return the summary of a row."""
    fields = dict(row)
    fields.pop("spans", None)
    return TraceSummary(run=fields.pop("run_id"), spans=fields.pop("span_count"), **fields)


def trace_of(row: Row) -> RunTrace:
    """Return the trace of a row."""
    return RunTrace(summary=trace_summary_of(row), spans=decode_spans(row["spans"]))
