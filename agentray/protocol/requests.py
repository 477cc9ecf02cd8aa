"""Typed requests: what an agent type can be asked beside prompts, as the gateway knows it."""

from __future__ import annotations

from typing import NamedTuple

REQUEST, CHAT, FRONT = "request", "chat", "front"
"""In the input of a run: its typed request as JSON, the conversation of its prompt, and what the
interface that it came through keeps with it."""

TYPED = "async"
"""What `front` names as the interface of typed requests."""

PROMPT = "prompt"
"""The request type of every agent that takes prompts."""


class RequestView(NamedTuple):
    """A type of requests that an agent type handles.

    Attributes:
        name: under which clients know it.
        event_type: of its class.
        schema: of its fields: JSON Schema, as text.
        doc: of its class.
    """

    name: str
    event_type: str
    schema: str
    doc: str = ""
