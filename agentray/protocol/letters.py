"""Dead letters as the outside sees them: what came to nothing with nobody there to hear of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentray.protocol.runs import RunError


class LetterKind(StrEnum):
    """What a dead letter was."""

    EVENT = "event"  # a published event
    MESSAGE = "message"  # an action that was told: a call without a reply
    RUN = "run"  # an accepted run


class LetterReason(StrEnum):
    """Why it is dead."""

    NO_SUBSCRIBER = "no_subscriber"  # nobody wants such an event
    HANDLER_FAILED = "handler_failed"  # it was handled, with an error that nobody waited for
    AGENT_FAILED = "agent_failed"  # its agent cannot be started, or was given up
    AGENT_STOPPED = "agent_stopped"  # its agent was shut down, or its app stopped
    MAILBOX_FULL = "mailbox_full"  # as many messages as may wait did so
    EXPIRED = "expired"  # its deadline passed before its turn came
    HOST_LOST = "host_lost"  # its host died or was left; whether it had an effect is unknown
    UNDELIVERABLE = "undeliverable"  # it had nowhere to go: the error tells
    RUN_DEAD = "run_dead"  # a run that was given up


class DeadLetter(BaseModel):
    """A message, event or run that came to nothing, and that nobody else is told of."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: LetterKind
    reason: LetterReason
    target: str = Field(
        description="The agent that it was for, as type/key; the type of an unwanted event."
    )
    name: str = Field(description="The event's type, or the action that was told.")
    payload: dict[str, Any] = Field(
        default_factory=dict, description="The event as JSON; {} where it has none."
    )
    sender: str | None = Field(default=None, description="The agent that sent it.")
    correlation_id: str = ""
    run_id: str | None = Field(default=None, description="The run that died.")
    attempts: int = Field(default=1, description="How often it was tried.")
    error: RunError | None = Field(default=None, description="The last error.")
    created_at: datetime
    retryable: bool = Field(default=True, description="Its content is kept, and can be sent again.")
    retried_as: str | None = Field(default=None, description="The run that tries it once more.")


@dataclass(frozen=True, slots=True)
class LetterQuery:
    """Which dead letters are looked for; None: all.

    Attributes:
        kind: event, message or run.
        reason: why they are dead.
        agent: for which they were, as type/key or only its type; or the type of an event.
        retried: whether they were tried once more.
        until: only older ones than this.
        ids: only these.
        tenant: only those of the runs of this tenant.
    """

    kind: LetterKind | None = None
    reason: LetterReason | None = None
    agent: str | None = None
    retried: bool | None = None
    until: datetime | None = None
    ids: Sequence[str] | None = None
    tenant: str | None = None


ALL_LETTERS = LetterQuery()
