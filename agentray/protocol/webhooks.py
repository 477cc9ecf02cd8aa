"""Webhooks: whom to tell that a run has ended, and what became of that."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentray.protocol.runs import RunStatus

PREVIOUS_SECRET_H = 24
"""Hours for which a secret signs besides, after another one of its name was made."""

DEFAULT_SECRET = "default"  # noqa: S105 - the name of one
NAME_FORM = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What the name of a secret looks like."""


class WebhookEvent(StrEnum):
    """What is told: how a run has ended."""

    SUCCEEDED = "run.succeeded"
    FAILED = "run.failed"
    CANCELLED = "run.cancelled"
    TIMED_OUT = "run.timed_out"
    BUDGET_EXCEEDED = "run.budget_exceeded"
    DEAD = "run.dead"

    @classmethod
    def of(cls, status: RunStatus) -> WebhookEvent:
        """Return the event of a terminal status."""
        return cls(f"run.{status.value}")


class WebhookState(StrEnum):
    """How far a webhook is."""

    WAITING = "waiting"  # its run has not ended
    PENDING = "pending"  # it is to be sent, or sent again
    DELIVERED = "delivered"  # its receiver has answered with 2xx
    DEAD = "dead"  # given up; it can be sent again


class WebhookSpec(BaseModel):
    """Whom to tell when a run has ended."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str = Field(
        max_length=2048,
        description="https://…: gets a POST, signed as Standard Webhooks has it. Its address must "
        "be public, unless the gateway's settings allow its network.",
        examples=["https://example.com/hooks/agentray"],
    )
    events: list[WebhookEvent] | None = Field(
        default=None,
        min_length=1,
        strict=False,
        description="Which ends are told; left out: each.",
    )
    secret: str = Field(
        default=DEFAULT_SECRET,
        pattern=NAME_FORM,
        description="Name of the secret that signs it: see `POST /v1/webhook-secrets`.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
            raise ValueError("an URL has only printable ASCII characters, and no spaces")
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises for what is no port
        except ValueError as error:
            raise ValueError(f"this is no URL: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("an URL of the form https://host/path is needed")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "no user and no password may be in the URL: the signature shows who sends"
            )
        return url


class Webhook(BaseModel):
    """A webhook of a run, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="The `webhook-id` that its receiver gets, the same each time.")
    run_id: str
    url: str
    events: list[WebhookEvent] | None = Field(description="Which ends are told; null: each.")
    secret: str = Field(description="Name of the secret that signs it.")
    state: WebhookState
    event: WebhookEvent | None = Field(default=None, description="What is told.")
    attempts: int = Field(default=0, description="How often it was tried to send it.")
    due_at: datetime | None = Field(
        default=None, description="When it is tried next; while it is pending."
    )
    last_status: int | None = Field(
        default=None, description="The HTTP status that its receiver answered with last."
    )
    last_error: str | None = Field(default=None, description="Why the last try came to nothing.")
    created_at: datetime
    finished_at: datetime | None = Field(
        default=None, description="When it was delivered, or given up."
    )


class WebhookSecret(BaseModel):
    """A secret that signs webhooks; what it is, is told once."""

    model_config = ConfigDict(frozen=True)

    name: str
    created_at: datetime
    rotated_at: datetime | None = Field(
        default=None,
        description="When it took the place of another, which signs besides for 24 hours.",
    )


class NewWebhookSecret(WebhookSecret):
    """A secret that was made just now."""

    secret: str = Field(description="`whsec_…`: give it to whoever checks signatures. Keep it.")
