"""What a run that was given to one agent begins with: a prompt, or a typed request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from agentray.errors import PayloadError
from agentray.events import Prompt, Request
from agentray.protocol.attachments import asked_with
from agentray.protocol.chat import Chat
from agentray.protocol.requests import CHAT, REQUEST
from agentray.protocol.runs import Run


def asked_type(given: Mapping[str, Any]) -> str:
    """Return the event type that a run's input is for."""
    return given[REQUEST]["event_type"] if REQUEST in given else Prompt.event_type


def request_of(run: Run, given: Mapping[str, Any], correlation_id: str) -> Request:
    """Return the event that an agent is asked with.

    Args:
        run: that it is the root of.
        given: the run's input.
        correlation_id: of the attempt.

    Raises:
        UnknownEventType: no class of the request's name is defined in this process.
        PayloadError: its fields do not fit the class.
    """
    told: dict[str, Any] = {"correlation_id": correlation_id, "source": f"run/{run.id}"}
    told["time"] = datetime.now(UTC)
    if REQUEST in given:
        return Request.from_json(given[REQUEST]).model_copy(update=told)
    try:
        chat = Chat.model_validate(given[CHAT]) if CHAT in given else None
    except ValidationError as error:  # another version of the gateway has written it
        raise PayloadError(f"The conversation cannot be read: {error}") from error
    return Prompt(text=given.get("prompt", ""), chat=chat, **asked_with(given), **told)
