"""Routing: which agents get an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

from agentray.errors import ConfigurationError
from agentray.ids import AgentId, check_key
from agentray.protocol.snapshot import Subscription


def recipients(
    subscriptions: Iterable[Subscription],
    *,
    event_id: str,
    correlation_id: str,
    fields: Mapping[str, Any],
    sender: AgentId | None,
) -> list[AgentId]:
    """Return who gets an event: each agent once, never the one that sent it.

    Args:
        subscriptions: those of the event's type, in the order of their registration.
        event_id: chooses the instance for `any:N`.
        correlation_id: chooses the instance for `correlation`.
        fields: the event's fields, for `field:NAME`.
        sender: the agent that publishes; None from outside.

    Raises:
        ConfigurationError: a key function names a field that the event does not have, or whose
            value makes no key.
    """
    found: dict[AgentId, None] = {}
    for subscription in subscriptions:
        key = _key(subscription, event_id, correlation_id, fields)
        agent = AgentId(subscription.agent_type, key)
        if agent != sender:
            found[agent] = None
    return list(found)


def _key(
    subscription: Subscription, event_id: str, correlation_id: str, fields: Mapping[str, Any]
) -> str:
    how, _, argument = subscription.key.partition(":")
    match how:
        case "correlation":
            return correlation_id
        case "field":
            if argument not in fields:
                raise ConfigurationError(
                    f"{subscription.agent_type} is keyed by the field {argument!r}, which "
                    f"{subscription.event_type} does not have."
                )
            if fields[argument] is None:
                raise ConfigurationError(
                    f"{subscription.agent_type} is keyed by the field {argument!r}, which is None "
                    f"in this {subscription.event_type}."
                )
            return check_key(str(fields[argument]))
        case "any":
            return str(crc32(event_id.encode()) % int(argument))
        case "key":
            return argument
        case _:
            raise ConfigurationError(f"Unknown key function {subscription.key!r}.")
