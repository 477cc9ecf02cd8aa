"""The agents of a cluster as the command line lists them: launched ones, and what is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentray.launching import AgentRecord
    from agentray.runtime.manager_client import ManagerClient
    from agentray.store.supervision import AgentFailure


async def look(
    manager: ManagerClient, agent_type: str | None, labels: Mapping[str, str], limit: int
) -> list[dict[str, Any]]:
    """Ask for agents: launched ones, and those that are in memory."""
    records = await manager.find(type=agent_type, labels=labels, limit=limit)
    resident = await manager.agents(agent_type, limit)
    return merged(records, resident, everything=not labels)[:limit]


async def look_for_failed(
    manager: ManagerClient, agent_type: str | None, limit: int
) -> list[dict[str, Any]]:
    """Ask for agents in trouble."""
    failures = await manager.failed_agents(agent_type, limit=limit)
    return [failed_row(failure) for failure in failures]


def failed_row(failure: AgentFailure) -> dict[str, Any]:
    """Return a failure as JSON."""
    return {
        "agent": str(failure.agent),
        "status": failure.kind.value,
        "failed_at": failure.at.isoformat(),
        "host_deaths": failure.deaths,
        "last_error": failure.error,
        "traceback": failure.traceback,
    }


def merged(
    records: Sequence[AgentRecord], resident: Sequence[dict[str, Any]], *, everything: bool
) -> list[dict[str, Any]]:
    """Return one row for each agent.

    Args:
        records: launched agents.
        resident: agents in memory, as `ManagerClient.agents` tells them.
        everything: also those that nobody launched.
    """
    in_memory = {row["agent"]: row for row in resident}
    rows = [_row(record, in_memory.pop(str(record.id), {})) for record in records]
    if everything:
        no_labels: dict[str, str] = {}
        unlaunched = {"launched": None, "labels": no_labels}
        rows += [{**row, **unlaunched} for row in in_memory.values()]
    return rows


def _row(record: AgentRecord, resident: Mapping[str, Any]) -> dict[str, Any]:
    absent = {
        "agent": str(record.id),
        "type": record.id.type,
        "host": None,
        # Launched, and not in memory just now: its next message brings it back.
        "status": "not in memory" if record.status == "running" else record.status.value,
        "queued": 0,
        "active_s": None,
        "idle_s": None,
        "last_error": record.last_error or None,
    }
    return {**absent, **resident, "launched": record.status.value, "labels": dict(record.labels)}
