"""Typed requests as jobs: which there are, and what has become of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agentray.core.lifecycle import TERMINAL
from agentray.event_loop import time_of_day
from agentray.protocol.async_jobs import JobProgress, JobState, JobStatus, JobType
from agentray.protocol.requests import FRONT, PROMPT
from agentray.protocol.runs import EventKind, RunEvent, RunStatus
from agentray.protocol.sessions import SESSION
from agentray.protocol.snapshot import TypeView
from agentray.store.base import Store, StoredRun

_LOOKED_AT = 1000
"""Events, the newest ones, among which the last progress of a job is looked for."""

_PROMPT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "minLength": 1}},
    "required": ["prompt"],
    "additionalProperties": False,
}


class TypeOfRequests(NamedTuple):
    """A type of requests, and who answers them.

    Attributes:
        agents: the agent types that do.
        event_type: of its class; None: it is a prompt.
        schema: of its fields: JSON Schema, as text.
        doc: of its class.
    """

    agents: tuple[str, ...]
    event_type: str | None
    schema: str
    doc: str


def types_of_requests(views: Iterable[TypeView]) -> dict[str, TypeOfRequests]:
    """Return the types of requests that agents answer, by their names."""
    found: dict[str, TypeOfRequests] = {}
    doc = "Ask an agent in words."
    for view in views:
        if view.prompts:
            made = TypeOfRequests((), None, json.dumps(_PROMPT_SCHEMA), doc)
            known = found.get(PROMPT, made)
            found[PROMPT] = known._replace(agents=(*known.agents, view.name))
        for asked in view.requests:
            made = TypeOfRequests((), asked.event_type, asked.schema, asked.doc)
            known = found.get(asked.name, made)
            found[asked.name] = known._replace(agents=(*known.agents, view.name))
    return found


def job_types(types: Mapping[str, TypeOfRequests]) -> list[JobType]:
    """Return types of requests as clients are told of them, in the order of their names."""
    return [
        JobType(
            name=name,
            agents=found.agents,
            request_schema=json.loads(found.schema),
            doc=found.doc,
        )
        for name, found in sorted(types.items())
    ]


async def read_job(store: Store, found: StoredRun) -> JobStatus:
    """Return a run as a job, as it is now."""
    first = max(-1, found.events - 1 - _LOOKED_AT)
    events = await store.run_events(found.run.id, after=first)
    return job_status(found, last_progress(events), len(events) + first)


def last_progress(events: Sequence[RunEvent]) -> JobProgress | None:
    """Return what agents last said of how far they are."""
    for event in reversed(events):
        if event.kind == EventKind.PROGRESS:
            return JobProgress.model_validate(event.data)
    return None


def job_status(found: StoredRun, progress: JobProgress | None, cursor: int) -> JobStatus:
    """Return a run as a job."""
    run = found.run
    state = JobState.PROCESSING
    if run.status in TERMINAL:
        done = run.status is RunStatus.SUCCEEDED
        state = JobState.COMPLETE if done else JobState.FAILED
    end = run.finished_at or time_of_day()
    front: Mapping[str, Any] = found.input.get(FRONT) or {}
    return JobStatus(
        token=run.id,
        type=front.get("type", PROMPT),
        state=state,
        progress=progress,
        response=run.result if state is JobState.COMPLETE else None,
        error=run.error if state is JobState.FAILED else None,
        failures=run.errors if state is JobState.COMPLETE else (),
        question=run.question.question if run.question else None,
        agent=run.agent,
        session=found.input.get(SESSION),
        started_at=run.created_at,
        finished_at=run.finished_at,
        runtime_ms=max(0, round((end - run.created_at).total_seconds() * 1000)),
        cursor=cursor,
    )
