"""Jobs of typed requests: what has become of one, as clients are told."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentray.protocol.runs import RunError


class JobState(StrEnum):
    """Where a job is in its life."""

    PROCESSING = "PROCESSING"  # it is accepted, and has not ended
    FAILED = "FAILED"  # it has ended without a response
    COMPLETE = "COMPLETE"  # it has ended, and has its response


class JobProgress(BaseModel):
    """How far a job is, as its agents last said it."""

    model_config = ConfigDict(frozen=True)

    message: str = ""
    current: float | None = None
    total: float | None = None


class JobStatus(BaseModel):
    """A job as it is now."""

    model_config = ConfigDict(frozen=True)

    token: str = Field(description="By which it is asked for: the id of its run.")
    type: str = Field(description="The type of its request.")
    state: JobState
    progress: JobProgress | None = Field(
        default=None, description="What its agents last said; null: nothing."
    )
    response: Any = Field(default=None, description="What it came to, of a job that is COMPLETE.")
    error: RunError | None = Field(default=None, description="Why it has FAILED.")
    failures: tuple[RunError, ...] = Field(
        default=(),
        description="What went wrong in parts of a job that is COMPLETE all the same.",
    )
    question: str | None = Field(
        default=None, description="What it waits to be told: answer its run."
    )
    agent: str = Field(description="Who works on it, as type/key.")
    session: str | None = Field(default=None, description="The session that it is given in.")
    started_at: datetime
    finished_at: datetime | None = None
    runtime_ms: int = Field(default=0, description="From its acceptance to its end, or until now.")
    cursor: int = Field(
        description="Give it as `after` to hear of the next progress, or to go on with the stream."
    )


class StartedJob(BaseModel):
    """A job that was accepted."""

    model_config = ConfigDict(frozen=True)

    token: str


class JobType(BaseModel):
    """A type of requests that agents answer."""

    model_config = ConfigDict(frozen=True)

    name: str
    agents: tuple[str, ...] = Field(description="The agent types that answer it.")
    request_schema: dict[str, Any] = Field(description="JSON Schema of the request.")
    doc: str = ""
