"""The one module of the runtime that knows Ray.

Hosts and the manager are plain classes; here they become actors, and actor handles become the ports
that the rest of the runtime speaks to. Ray's errors are mapped once, here.
"""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.runtime_env.packaging import package_exists, upload_package_to_gcs
from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import (
    ActorUnavailableError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)
from ray.runtime_env import RuntimeEnv

from agentray import logs
from agentray.config import MAX_STATE_BYTES
from agentray.context import bind_process
from agentray.core.room import Machine, Shortage, shortage_of
from agentray.errors import (
    ClusterNotRunning,
    ConfigurationError,
    ManagerUnavailable,
    StoreUnavailable,
)
from agentray.ids import AgentId
from agentray.protocol.codec import decode, encode
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.host import Host
from agentray.runtime.local_cluster import is_loopback
from agentray.runtime.machine_socket import SocketPort, SocketServer, nbytes
from agentray.runtime.manager import Manager
from agentray.runtime.pool_packing import PACKAGE
from agentray.runtime.ports import HostControl, HostGone, HostUnreachable
from agentray.runtime.redrive import Redriver
from agentray.store.base import LaunchedAgent, LaunchedQuery, StateWrite
from agentray.store.postgres import PostgresStore

logger = logging.getLogger(__name__)

NAMESPACE = "agentray"
MANAGER_NAME = "agentray-manager"

_BY_REFERENCE = 4 << 20
"""Bytes of a request from which on Ray's object store is quicker than the machine's socket."""

_LOOKS = frozenset({"agents", "pools", "status"})
_LOOK_ATTEMPTS, _LOOK_PAUSE_S = 20, 0.5
"""Methods of the manager that change nothing; its restart takes a few seconds."""

_MAX_CONCURRENCY = 10_000
"""Calls that an actor takes at once: each sender needs three, each watcher one."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an actor needs to begin.

    Attributes:
        database_url: DSN of the Store.
        default_hosts: hosts of the pool `default`.
        log_level: of agentray's loggers.
        max_state_bytes: of one agent's state.
        threads: most threads of a host for `run_sync`; None: as many as suit the machine.
        blocked_warning_s: a handler that blocks a host for longer is told; 0: none is.
    """

    database_url: str
    default_hosts: int
    log_level: str = "INFO"
    max_state_bytes: int = MAX_STATE_BYTES
    threads: int | None = None
    blocked_warning_s: float = 0.0


# Hosts


class HostActor:
    """A `Host` in a process of its own."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self._host: Host | None = None
        self._server: SocketServer | None = None

    @property
    def _running(self) -> Host:
        if self._host is None:
            raise HostUnreachable(f"{self._host_id} has not been started yet.")
        return self._host

    async def start(self, setup: bytes) -> dict[str, Any]:
        """Open the Store and make the host."""
        if self._host is None:
            options: Setup = decode(setup)
            logs.configure(options.log_level, process=self._host_id)
            store = PostgresStore(options.database_url)
            await store.open()
            self._host = Host(
                self._host_id,
                store,
                RayConnector(),
                threads=options.threads,
                blocked_warning_s=options.blocked_warning_s,
                max_state_bytes=options.max_state_bytes,
            )
            bind_process(self._host.channel)
            self._server = SocketServer(self._host.deliver, self._host.collect)
            await self._server.start(self._host_id)
        node = ray.get_runtime_context().get_node_id()
        return {"node_id": node, "pid": os.getpid()}

    async def deliver(self, frame: bytes, *parts: Any) -> Packet:
        """See `ports.HostPort`; parts that are large come through Ray's object store."""
        return await self._running.deliver([frame, *parts] if parts else frame)

    async def collect(self, frame: bytes) -> Packet:
        """See `ports.HostPort`."""
        return await self._running.collect(frame)

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """See `ports.HostControl`."""
        await self._running.update(snapshot, epochs)

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """See `ports.HostControl`."""
        failures = await self._running.load(apps)
        # What has been imported stays: the collector need not look at it time and again.
        gc.collect()
        gc.freeze()
        return failures

    async def release(self, pool: str, slots: Sequence[int], grace_s: float) -> None:
        """See `ports.HostControl`."""
        await self._running.release(pool, slots, grace_s)

    async def heartbeat(self) -> dict[str, Any]:
        """See `ports.HostControl`."""
        return self._running.heartbeat()

    async def until_death(self) -> str:
        """See `ports.HostControl`."""
        return await asyncio.get_running_loop().create_future()

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `ports.HostControl`."""
        return self._running.resident(agent_type, limit)

    async def stop(self, grace_s: float) -> None:
        """See `ports.HostControl`."""
        host, self._host = self._running, None
        await host.stop(grace_s)
        if self._server is not None:
            self._server.close()
        await host.store.close()


class RayHost:
    """A host actor as a `HostControl`."""

    def __init__(self, ref: HostRef, handle: Any = None) -> None:
        self._ref = ref
        self._handle = handle
        self._methods: dict[str, Any] = {}  # Ray makes a new object at each access
        self._socket: SocketPort | None = None  # past Ray, on the same machine
        self._looked_for_socket = False

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            remote = self._methods.get(method) or await self._find(method)
            return await remote(*args)
        except ActorUnavailableError as error:
            raise HostUnreachable(str(error)) from error
        except RayTaskError as error:
            # Raised inside the host: it arrives as itself.
            raise error.cause from error
        except (RayActorError, RuntimeEnvSetupError) as error:
            raise HostGone(_reason(error)) from error
        except ValueError as error:
            raise HostGone(f"there is no actor {self._ref.actor_name}") from error
        except RayError as error:
            # The object store is full, or a part of the request was lost: the link asks again.
            raise HostUnreachable(_reason(error)) from error

    async def _find(self, method: str) -> Any:
        if self._handle is None:
            # A blocking look-up at the GCS, once per host and process.
            self._handle = await asyncio.to_thread(ray.get_actor, self._ref.actor_name, NAMESPACE)
        remote = self._methods[method] = getattr(self._handle, method).remote
        return remote

    async def start(self, setup: bytes) -> dict[str, Any]:
        """See `ports.HostControl`."""
        return await self._call("start", setup)

    async def deliver(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        if not self._looked_for_socket:
            self._looked_for_socket = True
            self._socket = await SocketPort.connect(self._ref.id)
        if self._socket is not None and not self._socket.lost and nbytes(packet) < _BY_REFERENCE:
            return await self._socket.deliver(packet)
        # Each part is an argument of its own: Ray puts it into the object store, and the host
        # reads it there without a copy.
        return await self._call("deliver", *(packet if isinstance(packet, list) else (packet,)))

    async def collect(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        if self._socket is not None and not self._socket.lost:
            return await self._socket.collect(packet)
        return await self._call("collect", packet)

    def close(self) -> None:
        """See `ports.HostPort`."""
        if self._socket is not None:
            self._socket.close()

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """See `ports.HostControl`."""
        await self._call("update", snapshot, epochs)

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """See `ports.HostControl`."""
        return await self._call("load", apps)

    async def release(self, pool: str, slots: Sequence[int], grace_s: float) -> None:
        """See `ports.HostControl`."""
        await self._call("release", pool, slots, grace_s)

    async def heartbeat(self) -> dict[str, Any]:
        """See `ports.HostControl`."""
        return await self._call("heartbeat")

    async def until_death(self) -> str:
        """See `ports.HostControl`."""
        return await self._call("until_death")

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `ports.HostControl`."""
        return await self._call("resident", agent_type, limit)

    async def stop(self, grace_s: float) -> None:
        """See `ports.HostControl`."""
        await self._call("stop", grace_s)


def _reason(error: RayError) -> str:
    """Return why an actor ended, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("class_name", "actor_id", "pid", "name"))
    ]
    return " ".join(told)[:500] or type(error).__name__


class RayConnector:
    """Finds host actors by name."""

    def connect(self, host: HostRef) -> HostControl:
        """Return the port of a host; see `ports.Connector`."""
        return RayHost(host)

    async def seat(self, agent: AgentId) -> Snapshot:
        """Have a host started for an isolated agent; see `ports.Connector`."""
        try:
            manager = await asyncio.to_thread(RayManager.find)
        except ClusterNotRunning as error:
            raise ManagerUnavailable(str(error)) from error
        return await manager.call("seat", agent)


class RayHostFactory:
    """Makes and ends host actors."""

    async def create(self, host: HostRef, pool: PoolSpec) -> HostControl:
        """Begin to start a host; see `ports.HostFactory`."""
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
            max_restarts=0,  # the manager starts a new one; a restarted one would have no leases
            max_concurrency=_MAX_CONCURRENCY,
            # A call carries hundreds of messages; Ray's record of it would tell nothing of them.
            enable_task_events=False,
        )
        return RayHost(host, actor.remote(host.id))

    async def shortage(self, host: HostRef, pool: PoolSpec) -> Shortage | None:
        """Return what a host waits for; see `ports.HostFactory`.

        Ray lists what it cannot place, without saying for whom; hosts with an equal demand wait for
        the same anyway.
        """
        del host
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
        return shortage_of(pool.demand, [_machine(node) for node in nodes])

    async def adopt(self, host: HostRef) -> HostControl | None:
        """Return a host that was started before; see `ports.HostFactory`."""
        try:
            handle = await asyncio.to_thread(ray.get_actor, host.actor_name, NAMESPACE)
        except ValueError:
            return None
        return RayHost(host, handle)

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


# The manager


class ManagerActor:
    """A `Manager` in a process of its own, restarted by Ray when it dies."""

    def __init__(self, setup: bytes) -> None:
        self._packed = setup
        self._setup: Setup = decode(setup)
        self._manager: Manager | None = None
        self._starting = asyncio.Lock()
        logs.configure(self._setup.log_level, process="manager")

    async def _running(self) -> Manager:
        # After a restart by Ray nobody calls `start`: the first request does.
        async with self._starting:
            if self._manager is None:
                store = PostgresStore(self._setup.database_url)
                await store.open()
                redriver = Redriver(store, Channel(RayConnector()))
                manager = Manager(
                    store,
                    RayHostFactory(),
                    host_setup=self._packed,
                    default_hosts=self._setup.default_hosts,
                    redriver=redriver,
                )
                await manager.start()
                self._manager = manager
            return self._manager

    async def ready(self) -> None:
        """Return when it supervises."""
        await self._running()

    async def watch(self, version: int) -> Snapshot | None:
        """See `Manager.watch`."""
        return await (await self._running()).watch(version)

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """See `Manager.deploy`."""
        return await (await self._running()).deploy(spec)

    async def until_placed(self, app: str, wait_s: float) -> tuple[dict[str, str], Snapshot]:
        """See `Manager.until_placed`."""
        return await (await self._running()).until_placed(app, wait_s)

    async def seat(self, agent: AgentId) -> Snapshot:
        """See `Manager.seat`."""
        return await (await self._running()).seat(agent)

    async def stop_app(self, name: str) -> Snapshot:
        """See `Manager.stop_app`."""
        return await (await self._running()).stop_app(name)

    async def list_states(self, agent_type: str, after: str) -> list[StateWrite]:
        """See `Manager.list_states`."""
        return await (await self._running()).list_states(agent_type, after)

    async def get_state(self, agent: AgentId) -> StateWrite | None:
        """See `Manager.get_state`."""
        return await (await self._running()).get_state(agent)

    async def import_states(self, states: Sequence[StateWrite]) -> None:
        """See `Manager.import_states`."""
        await (await self._running()).import_states(states)

    async def add_pool(self, spec: PoolSpec) -> tuple[dict[str, Any], Snapshot]:
        """See `Manager.add_pool`."""
        return await (await self._running()).add_pool(spec)

    async def set_default_pool(self, name: str) -> Snapshot:
        """See `Manager.set_default_pool`."""
        return await (await self._running()).set_default_pool(name)

    async def remove_pool(self, name: str, successor: str) -> Snapshot:
        """See `Manager.remove_pool`."""
        return await (await self._running()).remove_pool(name, successor)

    async def pools(self) -> list[dict[str, Any]]:
        """See `Manager.pools`."""
        return (await self._running()).pools()

    async def agents(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `Manager.agents`."""
        return await (await self._running()).agents(agent_type, limit)

    async def find_launched(self, query: LaunchedQuery, limit: int) -> list[LaunchedAgent]:
        """See `Manager.find_launched`."""
        return await (await self._running()).find_launched(query, limit)

    async def renew_driver(self, driver: str, lease_s: float) -> None:
        """See `Manager.renew_driver`."""
        await (await self._running()).renew_driver(driver, lease_s)

    async def end_driver(self, driver: str, grace_s: float) -> None:
        """See `Manager.end_driver`."""
        await (await self._running()).end_driver(driver, grace_s)

    async def status(self) -> dict[str, Any]:
        """See `Manager.status`."""
        manager = await self._running()
        return {**manager.status(), "pid": os.getpid()}

    async def shutdown(self, grace_s: float) -> None:
        """Stop the hosts; the actor itself is killed by who asked."""
        await (await self._running()).stop(grace_s)


class RayManager:
    """The manager actor as seen from another process."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def find(cls) -> RayManager:
        """Return the manager of the connected cluster.

        Raises:
            ClusterNotRunning: the Ray cluster runs no agentray.
        """
        try:
            return cls(ray.get_actor(MANAGER_NAME, NAMESPACE))
        except ValueError:
            raise ClusterNotRunning(
                "The Ray cluster is there, but agentray is not running on it. Start it with "
                "`agentray up MODULE:APP`."
            ) from None

    @classmethod
    def create(cls, setup: Setup) -> RayManager:
        """Begin to start the manager."""
        actor = ray.remote(ManagerActor).options(
            name=MANAGER_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,  # a caller that was in doubt asks again by itself
            max_concurrency=_MAX_CONCURRENCY,
        )
        return cls(actor.remote(encode(setup)))

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the manager; what only looks is repeated while it restarts.

        Raises:
            ManagerUnavailable: it does not answer just now.
            AgentrayError: what it raised.
        """
        attempts = _LOOK_ATTEMPTS if method in _LOOKS else 1
        for _ in range(attempts - 1):
            try:
                return await self._call(method, *args)
            except ManagerUnavailable:
                await asyncio.sleep(_LOOK_PAUSE_S)
        return await self._call(method, *args)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, StoreUnavailable):
                raise ManagerUnavailable(f"The manager waits: {error.cause}") from error
            raise error.cause from error
        except RayActorError as error:
            raise ManagerUnavailable(f"The manager does not answer: {_reason(error)}") from error

    async def wait_ready(self) -> None:
        """Return when it supervises."""
        await self.call("ready")

    async def shutdown(self, grace_s: float) -> None:
        """Stop the hosts and the manager itself."""
        await self.call("shutdown", grace_s)
        ray.kill(self._handle)


# Connecting


def is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    return ray.is_initialized()


def connect_to_ray(address: str) -> None:
    """Connect this process to a Ray cluster.

    Args:
        address: `host:port` of its GCS, or `auto` inside of a Ray job.

    Raises:
        ClusterNotRunning: nobody answers there.
    """
    # Ray reads these when it is imported, which a driver may have done before it came here.
    Config.initialize("")  # the authentication mode, as Ray's own `init` does it
    if is_loopback(address):
        # Ray replaces a loopback address by the machine's own, where a local cluster does not
        # listen, and waits there for minutes.
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RuntimeError) as error:
        raise ClusterNotRunning(f"No Ray cluster answers at {address}: {error}") from error


def cluster_address() -> str:
    """Return `host:port` of the GCS of the cluster that this process is connected to."""
    return ray.get_runtime_context().gcs_address


def disconnect_from_ray() -> None:
    """Leave the Ray cluster; it goes on."""
    ray.shutdown()
