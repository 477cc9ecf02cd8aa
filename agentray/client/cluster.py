"""The cluster in the asynchronous client: machines, tasks, actors, Serve, resources, the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentray.client.calls import cluster as calls
from agentray.client.calls.cluster import ResourceKind
from agentray.client.calls.http import check, parse_answer
from agentray.client.records import (
    Actor,
    ClusterResources,
    Feasibility,
    Node,
    RuntimePolicy,
    ServeApplication,
    Task,
)
from agentray.client.resource import AsyncResource

Filters = Mapping[str, str]


class AsyncCluster(AsyncResource):
    """A part of `AsyncAgentClient`. Every method raises `ClientError`."""

    async def health_check(self) -> dict[str, Any]:
        """Return how the cluster is."""
        return calls.read(await self._connection.send(calls.health()))

    async def get_gpu_status(self) -> dict[str, Any]:
        """Return the GPUs of the cluster, and what of them is in use."""
        return calls.read(await self._connection.send(calls.gpu_status()))

    async def list_nodes(
        self, *, limit: int | None = None, filters: Filters | None = None
    ) -> list[Node]:
        """Return the machines, dead ones too as long as Ray remembers them.

        Args:
            limit: most of them; None: as many as the gateway returns at once.
            filters: names of fields, and the values that they must have.
        """
        request = calls.list_of("nodes", limit, filters)
        return parse_answer(await self._connection.send(request), calls.NODES)

    async def get_node(self, node_id: str) -> Node:
        """Return a machine.

        Raises:
            NotFound: there is none of this id.
        """
        request = calls.one_of("nodes", node_id)
        return parse_answer(await self._connection.send(request), calls.NODE)

    async def list_tasks(
        self, *, limit: int | None = None, filters: Filters | None = None
    ) -> list[Task]:
        """Return Ray's tasks; see `list_nodes`."""
        request = calls.list_of("tasks", limit, filters)
        return parse_answer(await self._connection.send(request), calls.TASKS)

    async def get_task(self, task_id: str) -> Task:
        """Return a task.

        Raises:
            NotFound: there is none of this id.
        """
        request = calls.one_of("tasks", task_id)
        return parse_answer(await self._connection.send(request), calls.TASK)

    async def list_actors(
        self, *, limit: int | None = None, filters: Filters | None = None
    ) -> list[Actor]:
        """Return Ray's actors; see `list_nodes`."""
        request = calls.list_of("actors", limit, filters)
        return parse_answer(await self._connection.send(request), calls.ACTORS)

    async def get_actor(self, actor_id: str) -> Actor:
        """Return an actor.

        Raises:
            NotFound: there is none of this id.
        """
        request = calls.one_of("actors", actor_id)
        return parse_answer(await self._connection.send(request), calls.ACTOR)

    async def list_serve_applications(self) -> list[ServeApplication]:
        """Return the applications that Ray Serve runs."""
        request = calls.list_applications()
        return parse_answer(await self._connection.send(request), calls.APPLICATIONS)

    async def get_serve_application(self, name: str) -> ServeApplication:
        """Return an application that Ray Serve runs.

        Raises:
            NotFound: there is none of this name.
        """
        request = calls.get_application(name)
        return parse_answer(await self._connection.send(request), calls.APPLICATION)

    async def delete_serve_application(self, name: str) -> None:
        """Take an application of Ray Serve down.

        Raises:
            NotFound: there is none of this name.
        """
        check(await self._connection.send(calls.delete_application(name)))

    async def get_cluster_resources(self, use_cache: bool = True) -> ClusterResources:
        """Return what the cluster has, and what of it is in use.

        Args:
            use_cache: it may be a few seconds old, as the policy says.
        """
        request = calls.get_resources(use_cache=use_cache)
        return parse_answer(await self._connection.send(request), calls.RESOURCES)

    async def check_feasibility(
        self,
        kind: ResourceKind,
        num_cpus: float,
        num_gpus: float = 0.0,
        memory_bytes: int | None = None,
        replicas: int = 1,
        metadata: Mapping[str, Any] | None = None,
        *,
        resources: Mapping[str, float] | None = None,
    ) -> Feasibility:
        """Return whether something has room now, and the policy lets it in.

        Args:
            kind: what it is.
            num_cpus: that each replica needs.
            num_gpus: likewise.
            memory_bytes: likewise.
            replicas: how many there are to be.
            metadata: what else is known.
            resources: what else each replica needs, by Ray's names.
        """
        body: dict[str, Any] = {
            "kind": kind,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory_bytes": memory_bytes,
            "replicas": replicas,
            "metadata": metadata or {},
            "resources": resources or {},
        }
        answer = await self._connection.send(calls.check_feasibility(body))
        return parse_answer(answer, calls.FEASIBILITY)

    async def get_runtime_policy(self) -> RuntimePolicy:
        """Return what lets jobs in, and what keeps them out."""
        return parse_answer(await self._connection.send(calls.get_policy()), calls.POLICY)

    async def update_runtime_policy(self, patch: Mapping[str, Any]) -> RuntimePolicy:
        """Change what of the policy is named, and return all of it.

        Args:
            patch: fields of `RuntimePolicy`, and their values.

        Raises:
            InvalidRequest: a field is wrong, or there is none of this name.
            Forbidden: the key is no admin's.
        """
        answer = await self._connection.send(calls.change_policy(patch))
        return parse_answer(answer, calls.POLICY)

    async def get_gatekeeping_policy(self) -> dict[str, Any]:
        """Return the policy as it comes; see `get_runtime_policy`."""
        return calls.read(await self._connection.send(calls.get_policy()))

    async def update_gatekeeping_policy(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Change the policy; see `update_runtime_policy`."""
        return calls.read(await self._connection.send(calls.change_policy(patch)))
