"""Waiting for what an aggregator makes of a conversation."""

from __future__ import annotations

from agentray.events import Event
from agentray.patterns.aggregator import AggregatorAgent
from agentray.patterns.handles import HasHandles


async def wait_for_events(
    via: HasHandles,
    aggregator: type[AggregatorAgent],
    correlation_id: str,
    timeout: float | None = None,
) -> tuple[Event, ...]:
    """Return what an aggregator has made of a conversation, at once if it has, else when it does.

    A result is remembered until the aggregator has been idle for its `idle_timeout_s`. Others may
    wait meanwhile, with other timeouts.

    Args:
        via: a manager's client, or an agent (`self`).
        aggregator: its class.
        correlation_id: of the conversation.
        timeout: seconds; None: as long as it takes.

    Raises:
        DeadlineExceeded: it has not been complete in time.
        Exception: what `combine` or `incomplete` raised.
    """
    handle = via.handle(aggregator, correlation_id).with_timeout(timeout)
    return await handle.call(aggregator.wait_for_events)
