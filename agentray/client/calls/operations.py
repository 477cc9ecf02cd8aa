"""Calls of operators."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, query_of
from agentray.protocol.operations import Drained, FailedAgent, LeftOver, RunningGroup


class _FailedAgents(BaseModel):
    agents: list[FailedAgent]


class _Groups(BaseModel):
    groups: list[RunningGroup]


class _Reset(BaseModel):
    reset: bool


_status = TypeAdapter(dict[str, Any])
_drained = TypeAdapter(Drained)
_failed = TypeAdapter(_FailedAgents)
_groups = TypeAdapter(_Groups)
_reset = TypeAdapter(_Reset)
_left = TypeAdapter(LeftOver)

_ROOT = "operations"


def get_status() -> Request:
    """Look at the cluster."""
    return Request("GET", path_of(_ROOT, "status"))


def drain(what: str, name: str, wait_s: float) -> Request:
    """Let a host leave, or all hosts of a node; `what` is `hosts` or `nodes`."""
    path = path_of(_ROOT, what, name, "drain")
    return Request("POST", path, query_of(wait_s=wait_s), harmless=True)


def undrain(node: str) -> Request:
    """Let hosts be started on a node again."""
    return Request("POST", path_of(_ROOT, "nodes", node, "undrain"), harmless=True)


def list_groups() -> Request:
    """List the groups that started with apps."""
    return Request("GET", path_of(_ROOT, "groups"))


def list_failed(agent_type: str | None, limit: int) -> Request:
    """List failed agents."""
    return Request("GET", path_of(_ROOT, "failed-agents"), query_of(type=agent_type, limit=limit))


def reset(agent: str) -> Request:
    """Let a failed agent start again."""
    agent_type, _, key = agent.partition("/")
    return Request("POST", path_of(_ROOT, "agents", agent_type, key, "reset"), harmless=True)


def collect(*, dry_run: bool) -> Request:
    """End what is left over, or look at it."""
    return Request("POST", path_of(_ROOT, "gc"), query_of(dry_run=dry_run), harmless=True)


def parse_status(response: Response) -> dict[str, Any]:
    """Read the state of the cluster.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _status)


def parse_drained(response: Response) -> Drained:
    """Read how far something has left.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _drained)


def parse_groups(response: Response) -> list[RunningGroup]:
    """Read a list of groups.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _groups).groups


def parse_failed(response: Response) -> list[FailedAgent]:
    """Read a list of failed agents.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _failed).agents


def parse_reset(response: Response) -> bool:
    """Read whether an agent had failed.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _reset).reset


def parse_left(response: Response) -> LeftOver:
    """Read what was left over.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _left)
