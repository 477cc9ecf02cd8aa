"""Runs as the outside sees them: the JSON of `GET /v1/runs/{id}` and of its events."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentray.errors import PayloadError, RunFailed
from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Question

T = TypeVar("T")


class RunStatus(StrEnum):
    """Where a run is in its life. The moves between them are a table in `core.lifecycle`."""

    QUEUED = "queued"  # accepted and committed, no host works on it yet
    RUNNING = "running"  # a host works on it
    WAITING = "waiting"  # a person's answer is needed to go on
    SUCCEEDED = "succeeded"  # ended with a result
    FAILED = "failed"  # ended with an error of the agent's
    CANCELLED = "cancelled"  # ended because somebody asked
    TIMED_OUT = "timed_out"  # ended by its deadline
    BUDGET_EXCEEDED = "budget_exceeded"  # ended by a limit on tokens, calls or cost
    DEAD = "dead"  # given up: it kept killing its host


class EventKind(StrEnum):
    """What may happen in a run; its last event has the run's terminal status as kind."""

    QUEUED = "queued"  # it was accepted
    STARTED = "started"  # an attempt began: `attempt`, `host`
    RESUMED = "resumed"  # it goes on after an answer
    ATTEMPT_LOST = "attempt_lost"  # what an attempt has told counts no more: `attempt`, `reason`
    WAITING = "waiting"  # it asks: `question`
    ANSWERED = "answered"  # it was answered
    EVENT = "event"  # an event was published
    PROGRESS = "progress"  # how far it is: `message`, `current`, `total`
    TEXT_DELTA = "text_delta"  # a piece of text: `text`, `agent`
    TOOL_CALL = "tool_call"  # a tool is called: `id`, `name`, `arguments`, `agent`
    TOOL_RESULT = "tool_result"  # what it came to: `id`, `name`, `result` or `error`, `agent`
    SPAN = "span"  # a message was handled; only where the run is traced as it goes


class RunError(BaseModel):
    """Why a run did not succeed."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="Name of the error's class.")
    message: str
    agent: str | None = Field(default=None, description="The agent in which it was raised.")
    path: tuple[str, ...] = Field(
        default=(), description="The causes that led there, from the prompt on."
    )


def _is_empty(errors: tuple[RunError, ...]) -> bool:
    return not errors


def _is_none(value: object) -> bool:
    return value is None


def why_stopped(status: RunStatus, timeout_s: float | None, why: str = "") -> RunError:
    """Return the error of a run that was ended from outside.

    Args:
        status: with which it ends.
        timeout_s: seconds that it was given.
        why: which limit of its budget was exceeded, in words.
    """
    if status == RunStatus.BUDGET_EXCEEDED:
        return RunError(type="BudgetExceeded", message=why)
    if status == RunStatus.TIMED_OUT and timeout_s is not None:
        return RunError(type="TimedOut", message=f"It took longer than {timeout_s:g} s.")
    return RunError(type="Cancelled", message="It was cancelled.")


class Run(BaseModel):
    """One accepted piece of work."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: RunStatus
    agent: str = Field(description="The agent that the work was given to, as type/key.")
    result: Any = None
    error: RunError | None = None
    attempt: int = Field(default=1, description="1 for the first; a crash of the host adds one.")
    correlation_id: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    not_before: datetime | None = Field(
        exclude_if=_is_none,
        default=None,
        description="When it begins; only in runs that were to begin later.",
    )
    schedule: str | None = Field(
        exclude_if=_is_none,
        default=None,
        description="The schedule that it is a firing of; only in runs of schedules.",
    )
    session: str | None = Field(
        exclude_if=_is_none,
        default=None,
        description="The session that it was given in; only in runs of sessions.",
    )
    errors: tuple[RunError, ...] = Field(
        exclude_if=_is_empty,
        default=(),
        description="All that went wrong, also in a run that succeeded all the same.",
    )
    question: Question | None = Field(
        exclude_if=_is_none, default=None, description="What it waits to be told."
    )
    usage: Usage | None = Field(
        exclude_if=_is_none, default=None, description="What it has used, where that was counted."
    )

    def result_as(self, kind: type[T]) -> T:
        """Return the result as a value of a type, such as a pydantic model.

        Raises:
            RunFailed: it has not succeeded.
            PayloadError: the result is no such value.
        """
        if self.status is not RunStatus.SUCCEEDED:
            why = "" if self.error is None else f"{self.error.type}: {self.error.message}"
            raise RunFailed(self.id, self.status.value, why)
        try:
            return TypeAdapter(kind).validate_python(self.result)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, ("result", *first["loc"])))
            raise PayloadError(f"{field} of {self.id}: {first['msg']}.") from error


class RunEvent(BaseModel):
    """Something that happened in a run. Offsets start at 0 and have no gaps."""

    model_config = ConfigDict(frozen=True)

    offset: int
    kind: str = Field(
        description=f"{', '.join(EventKind)}, or at the end the run's terminal status.",
        examples=["text_delta", "succeeded"],
    )
    time: datetime
    data: dict[str, Any] = Field(default_factory=dict)
    attempt: int | None = Field(
        exclude_if=_is_none,
        default=None,
        description="Only in events that are shown before they are kept: the attempt that they "
        "belong to. Should that be lost before they are kept, the events of the next one have "
        "these offsets.",
    )


class Span(BaseModel):
    """One handled message of a run's trace."""

    model_config = ConfigDict(frozen=True)

    id: str
    parent: str | None
    event: str
    agent: str
    host: str
    started_at: datetime
    duration_ms: float
    size_bytes: int | None = None
    error: str | None = None
    waited_ms: float | None = Field(
        default=None, description="From its arrival at its host to the start of its handler."
    )
