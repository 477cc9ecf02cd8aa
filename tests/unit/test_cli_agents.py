"""What `agentray agents` lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentray import AgentId, AgentRecord, AgentStatus, Handle
from agentray.cli.agents import merged


def a_record(key: str, status: AgentStatus, error: str = "") -> AgentRecord:
    handle: Handle[Any] = Handle(AgentId("greeter", key))
    now = datetime.now(UTC)
    return AgentRecord(handle, status, {"team": "a"}, "detached", None, now, error)


def a_row(key: str) -> dict[str, Any]:
    return {
        "agent": f"greeter/{key}",
        "type": "greeter",
        "host": "host_1",
        "status": "idle",
        "queued": 2,
        "active_s": 1.0,
        "idle_s": 0.5,
        "last_error": None,
    }


def test_launched_agents_come_first_with_what_is_known_of_them_in_memory() -> None:
    records = [
        a_record("ada", AgentStatus.RUNNING),
        a_record("bob", AgentStatus.RUNNING),
        a_record("eve", AgentStatus.FAILED, "ValueError: no"),
    ]
    rows = merged(records, [a_row("virtual"), a_row("ada")], everything=True)
    told = [(r["agent"], r["status"], r["launched"], r["labels"], r["queued"]) for r in rows]
    assert told == [
        ("greeter/ada", "idle", "running", {"team": "a"}, 2),
        ("greeter/bob", "not in memory", "running", {"team": "a"}, 0),
        ("greeter/eve", "failed", "failed", {"team": "a"}, 0),
        ("greeter/virtual", "idle", None, {}, 2),
    ]
    assert rows[2]["last_error"] == "ValueError: no"
    assert len(merged(records, [a_row("virtual")], everything=False)) == 3
