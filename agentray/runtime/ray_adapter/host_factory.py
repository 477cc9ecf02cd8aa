"""Making and ending host actors: the manager's hands."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray
from ray._private.runtime_env.packaging import package_exists, upload_package_to_gcs
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import (
    RayError,
)
from ray.runtime_env import RuntimeEnv
from ray.util import list_named_actors

from agentray.core.deaths import NodeSign
from agentray.core.room import Machine, Shortage, shortage_of
from agentray.errors import (
    ConfigurationError,
)
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.snapshot import HostRef
from agentray.runtime.flight_record import Flight
from agentray.runtime.host_notes import discard_notes, note_hang, read_notes
from agentray.runtime.pool_packing import PACKAGE
from agentray.runtime.ports import HostControl, HostUnreachable, NodeInfo
from agentray.runtime.ray_adapter.connecting import cluster_address
from agentray.runtime.ray_adapter.host_actor import HostActor
from agentray.runtime.ray_adapter.ray_host import RayHost
from agentray.runtime.ray_adapter.setup import MAX_CONCURRENCY, NAMESPACE

logger = logging.getLogger(__name__)


_NODE_LABEL = "ray.io/node-id"
_NOWHERE = "none"  # the id of no machine: a condition with it holds for all
_CONNECT_S = 1.0
_NOTES_S = 30.0
"""How long what a dead host has left stays for those who called it."""


class RayHostFactory:
    """Makes and ends host actors."""

    async def nodes(self) -> Sequence[NodeInfo]:
        """Return the machines; see `ports.HostFactory`."""
        try:
            found, free = await asyncio.to_thread(_look_at_nodes)
        except RayError as error:
            raise HostUnreachable(f"Ray does not tell its machines: {error}") from error
        return [_node(node, free.get(node["NodeID"], {})) for node in found if node["Alive"]]

    async def sign_of(self, node: str | None) -> NodeSign:
        """Return what can be seen of a machine; see `ports.HostFactory`.

        Ray itself takes a quarter of a minute to give a node up. Its raylet is asked for no answer:
        that it takes a connection, or that the machine refuses one, says enough.
        """
        try:
            found = await asyncio.to_thread(ray.nodes)
        except RayError:
            return NodeSign.THERE
        about = next((each for each in found if each["NodeID"] == node), None)
        if about is None:
            return NodeSign.THERE
        if not about["Alive"]:
            return NodeSign.GONE
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(
                    about["NodeManagerAddress"], about["NodeManagerPort"]
                )
        except ConnectionRefusedError:
            return NodeSign.GONE
        except (OSError, TimeoutError):
            return NodeSign.SILENT
        writer.close()
        return NodeSign.THERE

    async def create(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = (), prefer: str | None = None
    ) -> HostControl:
        """Begin to start a host; see `ports.HostFactory`."""
        # Ray gives each machine a label with its id.
        allowed = {_NODE_LABEL: f"!in({','.join(sorted(avoid))})"} if avoid else None
        wish: dict[str, Any] = {"label_selector": allowed}
        if prefer is not None:
            # A soft NodeAffinitySchedulingStrategy would wait at a machine that has become full,
            # and is not heeded for what reserves nothing.
            other = allowed or {_NODE_LABEL: f"!in({_NOWHERE})"}
            wish = {
                "label_selector": {_NODE_LABEL: prefer},
                "fallback_strategy": [{"label_selector": other}],
            }
        actor = ray.remote(HostActor).options(
            name=host.actor_name,
            namespace=NAMESPACE,
            lifetime="detached",  # it outlives the manager, which adopts it when it comes back
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            memory=pool.memory or None,
            resources=dict(pool.resources),
            runtime_env=await asyncio.to_thread(_prepare, pool),
            scheduling_strategy="SPREAD" if pool.placement == "spread" else "DEFAULT",
            **wish,
            max_restarts=0,  # the manager starts a new one; a restarted one would have no leases
            max_concurrency=MAX_CONCURRENCY,
            # A call carries hundreds of messages; Ray's record of it would tell nothing of them.
            enable_task_events=False,
        )
        return RayHost(host, actor.remote(host.id))

    async def shortage(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = ()
    ) -> Shortage | None:
        """Return what a host waits for; see `ports.HostFactory`.

        Ray lists what it cannot place, without saying for whom; hosts with an equal demand wait for
        the same anyway.
        """
        del host
        if avoid and all(node.id in avoid for node in await self.nodes()):
            return Shortage("every node is being drained", feasible=False)
        if not pool.demand:
            return None
        try:
            status = await asyncio.to_thread(get_cluster_status, cluster_address())
        except RayError as error:
            raise HostUnreachable(f"Ray does not tell what it cannot place: {error}") from error
        waiting = [
            bundle.bundle
            for demand in status.resource_demands.ray_task_actor_demand
            for bundle in demand.bundles_by_count
        ]
        if not any(_same(bundle, pool.demand) for bundle in waiting):
            return None
        nodes = [*status.active_nodes, *status.idle_nodes]
        allowed = [node for node in nodes if node.node_id not in avoid]
        return shortage_of(pool.demand, [_machine(node) for node in allowed])

    async def adopt(self, host: HostRef) -> HostControl | None:
        """Return a host that was started before; see `ports.HostFactory`."""
        try:
            handle = await asyncio.to_thread(ray.get_actor, host.actor_name, NAMESPACE)
        except ValueError:
            return None
        return RayHost(host, handle)

    async def actors(self) -> Collection[str]:
        """Return the names of living actors; see `ports.HostFactory`."""
        named: Any = await asyncio.to_thread(list_named_actors, all_namespaces=True)
        return [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]

    def flight(self, host: HostRef, *, hung: bool) -> Flight | None:
        """Return whose code a dead host of this machine ran; see `ports.HostFactory`."""
        if hung:
            note_hang(host.id)
        notes = read_notes(host.id)
        discard_notes(host.id, _NOTES_S, asyncio.get_running_loop().call_later)
        if notes is not None and notes.crash and not hung:
            extra = {"action": "host_crashed", "host": host.id, "stack": notes.crash}
            logger.error("the host crashed:\n%s", notes.crash, extra=extra)
        return None if notes is None else notes.flight

    def kill(self, host: HostRef) -> None:
        """End a host's process; see `ports.HostFactory`."""
        try:
            ray.kill(ray.get_actor(host.actor_name, NAMESPACE))
        except ValueError:
            logger.debug("%s is gone already", host.id)


def _same(bundle: Mapping[str, float], demand: Mapping[str, float]) -> bool:
    names = {name for name in bundle if not name.startswith(("node:", "bundle_group"))}
    return names == set(demand) and all(
        math.isclose(bundle[name], demand[name], rel_tol=1e-3) for name in names
    )


def _look_at_nodes() -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Return all machines that there have been, and what is free of each."""
    return ray.nodes(), ray.state.available_resources_per_node()


def _node(node: Mapping[str, Any], free: Mapping[str, float]) -> NodeInfo:
    total = node["Resources"]
    left = {name: free.get(name, 0.0) for name in total}
    return NodeInfo(node["NodeID"], node["NodeManagerAddress"], node["Alive"], total, left)


def _machine(node: Any) -> Machine:
    usage = node.resource_usage.usage
    total = {resource.resource_name: resource.total for resource in usage}
    return Machine(total, {r.resource_name: r.total - r.used for r in usage})


def _prepare(pool: PoolSpec) -> dict[str, Any]:
    """Return the runtime_env of a pool for Ray, with its packages where Ray finds them.

    Ray forgets packages that no process uses, and all of them when the cluster is started anew: so
    they are looked for, and uploaded again, before each start.

    Raises:
        ConfigurationError: Ray refuses it.
    """

    def place(where: str) -> str:
        if not where.startswith(PACKAGE):
            return where
        name = where.removeprefix(PACKAGE)
        uri = f"gcs://{name if name.endswith('.whl') else f'_ray_pkg_{name}'}"
        if not package_exists(uri):
            upload_package_to_gcs(uri, pool.packages[name])
        return uri

    env = dict(pool.runtime_env)
    try:
        if "working_dir" in env:
            env["working_dir"] = place(env["working_dir"])
        if "py_modules" in env:
            env["py_modules"] = [place(module) for module in env["py_modules"]]
        return RuntimeEnv(**env).to_dict()
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"The runtime_env of the pool {pool.name!r} cannot be used: {error}"
        ) from error
