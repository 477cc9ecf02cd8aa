"""Traces as the outside sees them: what a run set off, kept after its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from agentray.protocol.runs import Run, RunStatus, Span
from agentray.protocol.trusted import trusted


class TraceSummary(BaseModel):
    """What is known of a run's trace without its spans."""

    model_config = ConfigDict(frozen=True)

    run: str
    correlation_id: str
    trace_id: str = Field(description="The W3C trace id, under which other systems know it.")
    agent: str = Field(description="The agent that the work was given to, as type/key.")
    status: RunStatus
    started_at: datetime
    duration_ms: float
    spans: int = Field(description="Messages that are in the trace.")
    dropped_spans: int = Field(default=0, description="Messages beyond its bound: only counted.")
    errors: int = Field(default=0, description="Messages that ended with an error.")
    agent_types: tuple[str, ...] = Field(default=(), description="Whose agents took part.")
    events: tuple[str, ...] = Field(default=(), description="Types of events, names of actions.")


class RunTrace(BaseModel):
    """A run's trace: which agent handled what, where, for how long, and what that set off."""

    model_config = ConfigDict(frozen=True)

    summary: TraceSummary
    spans: tuple[Span, ...] = Field(description="In order of their start.")


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Which traces are looked for; None: all.

    Attributes:
        correlation_id: of the conversation.
        agent_type: one of its agents took part.
        event: type of an event, with or without its module, or name of an action that was handled.
        since: it started then or later.
        until: it started before that.
        errors: whether something in it failed.
    """

    correlation_id: str | None = None
    agent_type: str | None = None
    event: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    errors: bool | None = None


ALL_TRACES = TraceQuery()


def summarise(run: Run, trace_id: str, spans: Sequence[Span], dropped_spans: int = 0) -> RunTrace:
    """Return the trace of a run that has ended, with its spans in order of their start.

    Args:
        run: as it ended.
        trace_id: of its W3C trace context.
        spans: what was handled.
        dropped_spans: how many more there were.
    """
    started_at = run.started_at or run.created_at
    took = (run.finished_at or started_at) - started_at
    # Past the validation: these are our own, and there are as many as runs.
    summary = trusted(
        TraceSummary,
        {
            "run": run.id,
            "correlation_id": run.correlation_id,
            "trace_id": trace_id,
            "agent": run.agent,
            "status": run.status,
            "started_at": started_at,
            "duration_ms": round(took.total_seconds() * 1000, 3),
            "spans": len(spans),
            "dropped_spans": dropped_spans,
            "errors": sum(span.error is not None for span in spans),
            "agent_types": tuple(sorted({span.agent.partition("/")[0] for span in spans})),
            "events": tuple(sorted({span.event for span in spans})),
        },
    )
    ordered = tuple(sorted(spans, key=lambda s: s.started_at))
    return trusted(RunTrace, {"summary": summary, "spans": ordered})
