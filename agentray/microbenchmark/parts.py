"""What can be measured by itself."""

from __future__ import annotations

from collections.abc import Sequence

from agentray.errors import ConfigurationError

PARTS = {
    "calls": "calls",
    "streams": "streams",
    "peers": "agents that call agents",
    "http": "prompts over HTTP",
    "prompt-streams": "prompts that are followed",
    "jobs": "jobs and their logs",
    "memory": "agents in memory",
    "sessions": "sessions",
    "durable": "durable prompts",
    "steps": "events durable per step",
    "failover": "hosts that are killed",
}
"""The parts by their names, in words, in the order in which they are measured."""


def chosen_parts(wanted: Sequence[str]) -> list[str]:
    """Return which parts are measured, in their order; all when none is named.

    Raises:
        ConfigurationError: there is none of one of the names.
    """
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} is nothing to measure: {', '.join(PARTS)}.")
    return [name for name in PARTS if name in wanted or not wanted]
