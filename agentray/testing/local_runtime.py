"""A whole cluster in one process: the same manager, hosts and channel as on Ray.

::

    async def test_greeting():
        async with LocalRuntime() as manager:
            await manager.deploy(App("greetings", [Greeter]))
            assert await manager.handle(Greeter, "ada").greet() == "Hello ada"

Messages between hosts are packed and unpacked as over the wire; only the wire is missing. A host
can be killed in the midst of its work, and the manager fails over as it does on Ray.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from agentray import telemetry
from agentray.agent import Agent
from agentray.config import (
    BATCH,
    MAX_STATE_BYTES,
    METRICS_INTERVAL_S,
    QUARANTINE_AFTER,
    BatchLimits,
)
from agentray.context import Context, bind_process, release_process
from agentray.core.deaths import Death, DeathCause, NodeSign
from agentray.core.leadership import Candidate
from agentray.core.room import Machine, Shortage, shortage_of
from agentray.errors import ManagerUnavailable
from agentray.events import Event
from agentray.ids import AgentId, new_id
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.flight_record import Flight, FlightRecord, in_memory, read_flight
from agentray.runtime.host import Host
from agentray.runtime.leadership import Leadership
from agentray.runtime.manager import Manager
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.ports import HostControl, HostGone, HostUnreachable, MetricsPort, NodeInfo
from agentray.runtime.redrive import Redriver
from agentray.runtime.sync_manager import SyncContext
from agentray.runtime.watcher import SnapshotWatcher
from agentray.store.base import Store
from agentray.store.memory import MemoryStore

__all__ = ["LocalRuntime"]

KILLED = Death(DeathCause.SIGKILL, "It was killed.", "SIGKILL")

E = TypeVar("E", bound=Event)


class _RecordingHost(Host):
    """A host that remembers what its agents published."""

    def __init__(self, ref: HostRef, runtime: LocalRuntime, record: FlightRecord) -> None:
        super().__init__(
            ref.id,
            runtime.store,
            runtime.network,
            max_state_bytes=runtime.max_state_bytes,
            threads=runtime.threads,
            blocked_warning_s=runtime.blocked_warning_s,
            max_runs=runtime.max_runs,
            batch=runtime.batch,
            metrics=runtime.metrics,
            metrics_interval_s=runtime.metrics_interval_s,
            record=record,
        )
        self._published = runtime.published

    def send_event(self, event: Event, context: Context) -> Event:
        """See `Host.send_event`."""
        published = super().send_event(event, context)
        self._published.append(published)
        return published


class _LocalHost:
    """A host in this process that can die as a process does: at once, and with all it knew."""

    def __init__(self, ref: HostRef, runtime: LocalRuntime) -> None:
        self.ref = ref
        self._runtime = runtime
        self._host: Host | None = None
        self._dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unreachable = False
        self.death: Death | None = None
        self._flight = bytearray()
        self.flight: Flight | None = None  # when it died

    @property
    def host(self) -> Host | None:
        """What runs in it, once it was started."""
        return self._host

    @property
    def alive(self) -> bool:
        """Whether it has not been killed."""
        return not self._dead.done()

    def runs(self, agent: Agent) -> bool:
        """Whether this very instance of an agent is in its memory."""
        found = None if self._host is None else self._host.find(agent.id)
        return found is not None and found.is_of(agent)

    def die(self, death: Death | None = None) -> None:
        """End it without a word."""
        if self.alive:
            self.death = death or KILLED
            self.flight = read_flight(self._flight)
            self._dead.set_result(None)

    async def _until(self, work: Any) -> Any:
        """Do something on the host; its death ends that, and the caller hears of it."""
        if self.unreachable:
            work.close()
            raise HostUnreachable("It cannot be reached.")
        task = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait((task, self._dead), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if not self.alive:
            raise self._gone
        return await task

    @property
    def _gone(self) -> HostGone:
        death = self.death or KILLED
        return HostGone(death.reason, death)

    @property
    def _running(self) -> Host:
        if self._host is None:
            raise HostGone("It has not been started.")
        return self._host

    async def start(self, setup: bytes) -> dict[str, Any]:
        """Make the host, when there is room for it."""
        del setup
        await self._until(self._runtime.network.until_placed(self.ref))
        record, self._flight = in_memory()
        self._host = _RecordingHost(self.ref, self._runtime, record)
        return {"node_id": self._runtime.network.node_of[self.ref.id], "pid": os.getpid()}

    async def deliver(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        return await self._until(self._running.deliver(packet))

    async def collect(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        return await self._until(self._running.collect(packet))

    def close(self) -> None:
        """See `ports.HostPort`."""

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """See `ports.HostControl`."""
        await self._until(self._running.update(snapshot, epochs))

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """See `ports.HostControl`."""
        return await self._until(self._running.load(apps))

    async def check(self, app: str) -> str:
        """See `ports.HostControl`."""
        return await self._until(self._running.check(app))

    async def release(
        self, pool: str, slots: Sequence[int], grace_s: float, together: bool
    ) -> Sequence[int]:
        """See `ports.HostControl`."""
        return await self._until(self._running.release(pool, slots, grace_s, together))

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """See `ports.HostControl`."""
        return await self._until(self._running.end_runs(app, cancel, wait_s))

    async def heartbeat(self) -> dict[str, Any]:
        """See `ports.HostControl`."""
        host = self._running

        async def answer() -> dict[str, Any]:
            return host.heartbeat()

        return await self._until(answer())

    async def until_death(self) -> str:
        """See `ports.HostControl`."""
        await asyncio.wait((self._dead,))  # who stops waiting must not end it
        raise self._gone

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `ports.HostControl`."""
        return self._running.resident(agent_type, limit)

    async def stop(self, grace_s: float) -> None:
        """See `ports.HostControl`."""
        await self._running.stop(grace_s)

    async def discard(self) -> None:
        """Free what a dead host left behind in this process, without letting it write anything."""
        if self._host is not None:
            await self._host.abandon()


class _Network:
    """Finds hosts; makes and ends them."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self.hosts: dict[str, _LocalHost] = {}
        self.node_of: dict[str, str] = {}
        self.room = _Room(runtime.resources)

    def connect(self, host: HostRef) -> HostControl:
        """See `ports.Connector`."""
        return self.hosts.get(host.id) or _gone(host, self._runtime)

    async def seat(self, agent: AgentId) -> Snapshot:
        """See `ports.Connector`."""
        return await self._runtime.manager.seat(agent)

    async def about(self, agent: AgentId, what: str) -> dict[str, Any] | None:
        """See `ports.Connector`."""
        return await self._runtime.manager.about(agent, what)

    async def nodes(self) -> list[NodeInfo]:
        """See `ports.HostFactory`."""
        nodes = self._runtime.nodes
        all_of_them = {"CPU": float(len(nodes)), **(self._runtime.resources or {})}
        share = {name: amount / len(nodes) for name, amount in all_of_them.items()}
        return [NodeInfo(node, "localhost", resources=share, free=share) for node in nodes]

    async def sign_of(self, node: str | None) -> NodeSign:
        """See `ports.HostFactory`."""
        known = node is None or node in self._runtime.nodes
        return NodeSign.THERE if known else NodeSign.GONE

    async def create(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = (), prefer: str | None = None
    ) -> HostControl:
        """See `ports.HostFactory`."""
        made = self.hosts[host.id] = _LocalHost(host, self._runtime)
        if allowed := self._allowed(avoid):
            self.node_of[host.id] = prefer if prefer in allowed else allowed[0]
            self.room.ask(host.id, pool.demand)
        return made

    def _allowed(self, avoid: Collection[str]) -> list[str]:
        return [node for node in self._runtime.nodes if node not in avoid]

    async def until_placed(self, host: HostRef) -> None:
        """Wait until there is room for a host."""
        await self.room.granted(host.id)

    async def shortage(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = ()
    ) -> Shortage | None:
        """See `ports.HostFactory`."""
        if not self._allowed(avoid):
            return Shortage("every node is being drained", feasible=False)
        return self.room.shortage(host.id, pool.demand)

    async def adopt(self, host: HostRef) -> HostControl | None:
        """See `ports.HostFactory`."""
        found = self.hosts.get(host.id)
        return found if found is not None and found.alive else None

    async def actors(self) -> Collection[str]:
        """See `ports.HostFactory`."""
        return [host.ref.actor_name for host in self.hosts.values() if host.alive]

    def flight(self, host: HostRef, *, hung: bool) -> Flight | None:
        """See `ports.HostFactory`."""
        del hung
        return self.hosts[host.id].flight if host.id in self.hosts else None

    async def let_out(self, agent: AgentId) -> bool:
        """See `ports.Connector`."""
        return await self._runtime.manager.release_agent(agent)

    def kill(self, host: HostRef) -> None:
        """See `ports.HostFactory`."""
        for host_id, known in self.hosts.items():
            if known.ref.actor_name == host.actor_name:
                known.die()
                self.room.give_back(host_id)


class _Room:
    """The resources of the one machine that this process pretends to be."""

    def __init__(self, resources: Mapping[str, float] | None) -> None:
        self._total = resources  # None: as much as anybody wants
        self._demands: dict[str, Mapping[str, float]] = {}
        self._placed: set[str] = set()
        self._changed = asyncio.Event()

    def provide(self, resources: Mapping[str, float]) -> None:
        self._total = dict(resources)
        self._place()

    def ask(self, host_id: str, demand: Mapping[str, float]) -> None:
        self._demands[host_id] = demand
        self._place()

    def give_back(self, host_id: str) -> None:
        self._demands.pop(host_id, None)
        self._placed.discard(host_id)
        self._place()

    async def granted(self, host_id: str) -> None:
        while host_id not in self._placed:
            await self._changed.wait()

    def shortage(self, host_id: str, demand: Mapping[str, float]) -> Shortage | None:
        if host_id in self._placed:
            return None
        return shortage_of(demand, [self._machine()])

    def _place(self) -> None:
        for host_id, demand in self._demands.items():  # in the order in which they asked
            if host_id not in self._placed and shortage_of(demand, [self._machine()]) is None:
                self._placed.add(host_id)
        self._changed.set()
        self._changed = asyncio.Event()

    def _machine(self) -> Machine:
        if self._total is None:
            plenty = dict.fromkeys((n for d in self._demands.values() for n in d), math.inf)
            return Machine(plenty, plenty)
        used: Counter[str] = Counter()
        for host_id in self._placed:
            used.update(self._demands[host_id])
        return Machine(self._total, {name: a - used[name] for name, a in self._total.items()})


def _gone(ref: HostRef, runtime: LocalRuntime) -> _LocalHost:
    host = _LocalHost(ref, runtime)
    host.die()
    return host


class _LocalManager:
    """The manager as a port, whichever it is."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    async def call(self, method: str, *args: Any) -> Any:
        """See `watcher.ManagerPort`."""
        if self._runtime.restarting:
            raise ManagerUnavailable
        self._runtime.manager.check_leads()
        result = getattr(self._runtime.manager, method)(*args)
        return await result if asyncio.iscoroutine(result) else result


class LocalRuntime(SyncContext):
    """A whole cluster in this process, for tests.

    Use it as an asynchronous context manager; it gives a `ManagerClient`, as `agentray.connect()`
    does. At its end nothing of it is left: no task, no timer. By `with` it runs on an event loop in
    a thread of its own and gives a `SyncManager`; what tests do to hosts needs `async with`.

    Attributes:
        store: what it keeps things in.
        published: the events that agents published, in this order.
        restarting: the manager is away just now.
    """

    def __init__(  # noqa: PLR0913 - as a host's settings
        self,
        *,
        hosts: int = 2,
        store: Store | None = None,
        max_state_bytes: int = MAX_STATE_BYTES,
        threads: int | None = None,
        blocked_warning_s: float = 0.0,
        resources: Mapping[str, float] | None = None,
        max_runs: int | None = None,
        batch: BatchLimits = BATCH,
        metrics: MetricsPort | None = None,
        metrics_interval_s: float = METRICS_INTERVAL_S,
        quarantine_after: int = QUARANTINE_AFTER,
        nodes: Sequence[str] = ("local",),
    ) -> None:
        """Make one.

        Args:
            hosts: of the pool `default`.
            store: open; None: a new `MemoryStore`.
            max_state_bytes: of one agent's state as JSON; more is refused.
            threads: most threads for `run_sync`, per host; None: as on Ray.
            blocked_warning_s: a handler that blocks the event loop for longer is told, by each
                host, for they share the loop; 0: none is. Not for virtual time.
            resources: of the one machine that this process pretends to be, by Ray's names, such as
                `{"CPU": 4, "GPU": 0}`: pools that want more are pending. None: as much as anybody
                wants. What pools say of `runtime_env` has no effect here.
            max_runs: that one host works on at once; None: any number.
            batch: most that leaves together for one host.
            metrics: where the hosts' metrics go, such as `RecordedMetrics`; None: nowhere.
            metrics_interval_s: how often they do.
            quarantine_after: deaths of hosts after which an agent takes no messages; 0: never.
            nodes: ids of the machines on which its hosts are placed; `resources` are those of all
                of them together, in equal parts, and one CPU for each if they name none.
        """
        self.max_state_bytes = max_state_bytes
        self.store: Store = store or MemoryStore()
        self.threads = threads
        self.blocked_warning_s = blocked_warning_s
        self.published: list[Event] = []
        self.resources = resources
        self.max_runs = max_runs
        self.batch = batch
        self.metrics = metrics
        self.metrics_interval_s = metrics_interval_s
        self._quarantine_after = quarantine_after
        self.nodes = tuple(nodes)
        self.network = _Network(self)
        self._wanted = hosts
        self._place = new_id("local")
        self.restarting = False

    async def __aenter__(self) -> ManagerClient:
        telemetry.start("local")
        await self.store.open()
        self.manager = await self._start_manager()
        self._channel = Channel(self.network, batch=self.batch)
        self._watcher = SnapshotWatcher(_LocalManager(self), self._channel)
        await self._watcher.start()
        bind_process(self._channel)
        self._client = ManagerClient(_LocalManager(self), self._channel)
        return self._client

    async def _start_manager(self) -> Manager:
        lead = await Leadership.gain(
            self.store, Candidate(self._place, "a local runtime's manager")
        )
        manager = Manager(
            lead.store,
            self.network,
            lead=lead,
            host_setup=b"",
            default_hosts=self._wanted,
            quarantine_after=self._quarantine_after,
            redriver=Redriver(lead.store, Channel(self.network)),
        )
        await manager.start()
        return manager

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        release_process(self._channel)  # before anything that may fail, or later ones would use it
        await self._client.close()
        await self._watcher.close()
        await self._channel.close()
        await self.manager.stop(grace_s=1.0)
        for host in self.network.hosts.values():
            await host.discard()
        await self.store.close()

    # What tests do to it

    @property
    def hosts(self) -> list[str]:
        """Ids of the hosts that live."""
        return [host_id for host_id, host in self.network.hosts.items() if host.alive]

    @property
    def running(self) -> list[Host]:
        """The hosts that live, themselves: for tests of what agents cannot see."""
        return [host.host for host in self.network.hosts.values() if host.alive and host.host]

    def events(self, kind: type[E]) -> list[E]:
        """Return the events of a class that agents published so far, in this order."""
        return [event for event in self.published if isinstance(event, kind)]

    def host_of(self, agent: AgentId) -> str | None:
        """Return the id of the host that leases an agent's slot; None when nobody does."""
        host = self._channel.snapshot.host_of(agent)
        return host.id if host else None

    def provide(self, resources: Mapping[str, float]) -> None:
        """Let the machine have other resources, as when machines join or leave a cluster."""
        self.network.room.provide(resources)

    async def restart_manager(self) -> None:
        """Let the manager die and come back, as it does on Ray; the hosts go on meanwhile."""
        self.restarting = True  # who asks the old one to tell what is new would wait for long
        try:
            await self.manager.abandon()
            self.manager = await self._start_manager()
        finally:
            self.restarting = False

    async def kill_host(self, host_id: str, death: Death = KILLED) -> None:
        """Kill a host as `kill -9` would: what it was doing never answers.

        Args:
            host_id: which.
            death: how it shall look to the manager.
        """
        host = self.network.hosts[host_id]
        host.die(death)
        self.network.room.give_back(host_id)
        await host.discard()

    def lose_node(self, node: str) -> None:
        """Lose a machine with its hosts: nothing of it answers or says good-bye.

        Args:
            node: its id.
        """
        self.nodes = tuple(each for each in self.nodes if each != node)
        for host_id in [h for h in self.hosts if self.network.node_of.get(h) == node]:
            self.cut_off(host_id)

    def cut_off(self, host_id: str, *, cut: bool = True) -> None:
        """Make a host unreachable, or reachable again; it goes on working meanwhile."""
        self.network.hosts[host_id].unreachable = cut
