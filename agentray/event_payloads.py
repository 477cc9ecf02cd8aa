"""Events as their recipients get them: what can be changed is copied, what cannot is shared.

An event whose fields hold lists, dicts, arrays and the like is encoded once, when it is published.
From then on these bytes are the event: each recipient, on whatever host, reads a copy of its own.
"""

from __future__ import annotations

from typing import Any

from agentray.events import Event
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Copied
from agentray.protocol.unchangeable import is_unchangeable_model

_set: Any = object.__setattr__  # an event's own refuses: it is frozen


def snapshot_of(event: Event) -> Event:
    """Return an event as it is now: itself if nobody can change it, else a copy with its bytes.

    Raises:
        PayloadError: it cannot be serialised; it names the field.
    """
    if is_unchangeable_model(event):
        return event
    data = _encoded(event)
    copied: Event = decode(data)
    _set(copied, "_encoded", data)
    return copied


def payload_of(event: Event) -> Event | Copied:
    """Return what brings an event to its recipients: itself if nobody can change it, else bytes.

    Raises:
        PayloadError: it cannot be serialised; it names the field.
    """
    if is_unchangeable_model(event):
        return event
    data: Copied | None = getattr(event, "_encoded", None)
    if data is None:
        data = _encoded(event)
        _set(event, "_encoded", data)
    return data


def _encoded(event: Event) -> Copied:
    return Copied(encode(event, f"event {event.event_type}"))
