"""Calls about the cluster: machines, tasks, actors, Serve applications, resources, the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.client.calls.ray_jobs import check_id
from agentray.client.records import (
    Actor,
    ClusterResources,
    Feasibility,
    Node,
    RuntimePolicy,
    ServeApplication,
    Task,
)

ResourceKind = Literal["job", "serve", "container", "task"]

ANYTHING = TypeAdapter[dict[str, Any]](dict[str, Any])
NODE, NODES = TypeAdapter(Node), TypeAdapter(list[Node])
TASK, TASKS = TypeAdapter(Task), TypeAdapter(list[Task])
ACTOR, ACTORS = TypeAdapter(Actor), TypeAdapter(list[Actor])
APPLICATION, APPLICATIONS = TypeAdapter(ServeApplication), TypeAdapter(list[ServeApplication])
RESOURCES = TypeAdapter(ClusterResources)
FEASIBILITY = TypeAdapter(Feasibility)
POLICY = TypeAdapter(RuntimePolicy)


def health() -> Request:
    """Ask how the cluster is."""
    return Request("GET", path_of("health"))


def gpu_status() -> Request:
    """Ask for the GPUs."""
    return Request("GET", path_of("gpu_status"))


def list_of(
    what: Literal["nodes", "tasks", "actors"],
    limit: int | None,
    filters: Mapping[str, str] | None,
) -> Request:
    """List machines, tasks or actors.

    Args:
        what: which.
        limit: most of them.
        filters: names of fields and the values that they must have.
    """
    return Request("GET", path_of(what), {**(filters or {}), **query_of(limit=limit)})


def one_of(what: Literal["nodes", "tasks", "actors"], found: str) -> Request:
    """Look at one of them."""
    return Request("GET", path_of(what, check_id(found, what[:-1])))


def list_applications() -> Request:
    """List Serve applications."""
    return Request("GET", path_of("serve_applications"))


def get_application(name: str) -> Request:
    """Look at a Serve application."""
    return Request("GET", path_of("serve_applications", check_id(name, "Serve application")))


def delete_application(name: str) -> Request:
    """Take a Serve application down."""
    return Request("DELETE", path_of("serve_applications", check_id(name, "Serve application")))


def get_resources(*, use_cache: bool) -> Request:
    """Ask for the resources of all machines."""
    return Request("GET", path_of("resources", "cluster"), query_of(use_cache=use_cache))


def check_feasibility(body: Mapping[str, Any]) -> Request:
    """Ask whether something has room now."""
    return post(path_of("resources", "feasibility"), body, harmless=True)


def get_policy() -> Request:
    """Ask for the policy."""
    return Request("GET", path_of("resources", "policy"))


def change_policy(patch: Mapping[str, Any]) -> Request:
    """Change what of the policy is named."""
    return post(path_of("resources", "policy"), patch, method="PATCH")


def read(response: Response) -> dict[str, Any]:
    """Read any JSON object.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, ANYTHING)
