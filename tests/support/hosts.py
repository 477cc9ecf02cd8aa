"""Real hosts with a Store and channels, without a manager: the test itself says who leases what."""

from __future__ import annotations

from collections.abc import Sequence

from agentray import AgentId, App
from agentray.ids import SLOTS
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import HostRef, PoolView, Snapshot, TypeView
from agentray.runtime.channel import Channel
from agentray.runtime.host import Host
from agentray.runtime.packing import pack_app
from agentray.runtime.ports import HostPort
from agentray.store.base import HostRow, SlotLease
from agentray.store.memory import MemoryStore

ALL_SLOTS = range(SLOTS)
_POOL = "default"


class _Wire(HostPort):
    """A way to a host of this process that serialises as a real one does."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def deliver(self, packet: Packet) -> Packet:
        return await self._host.deliver(packet)

    async def collect(self, packet: Packet) -> Packet:
        return await self._host.collect(packet)

    def close(self) -> None:
        """Nothing is open."""


class Hosts:
    """Hosts `host-0`, `host-1`... and a client outside of them."""

    def __init__(self, app: App, store: MemoryStore | None = None) -> None:
        self.app = app
        self.store = store or MemoryStore()
        self.all: list[Host] = []
        self.version = 0
        self.epoch = 0  # of all slots; they are always leased together
        self.client = Channel(self)
        self._wires: dict[str, _Wire] = {}

    def connect(self, host: HostRef) -> HostPort:
        """Return the way to a host."""
        return self._wires[host.id]

    async def seat(self, agent: AgentId) -> Snapshot:
        """No pool is isolated."""
        raise AssertionError(agent)

    async def about(self, agent: AgentId, what: str) -> None:
        raise AssertionError(f"{agent} is not isolated: {what}")

    async def let_out(self, agent: AgentId) -> bool:
        raise AssertionError(f"{agent} is not in quarantine.")

    async def start(self, count: int) -> list[Host]:
        """Start hosts; the first one leases everything."""
        for number in range(count):
            host = Host(f"host-{number}", self.store, self)
            self.all.append(host)
            self._wires[host.host_id] = _Wire(host)
            await host.load({self.app.name: encode(pack_app(self.app))})
            await self.store.put_host(HostRow(host.host_id, _POOL, host.host_id, "live"))
        await self.lease(self.all[0])
        return self.all

    async def assign(self, host: Host) -> None:
        """Lease all slots to a host in the Store, and tell nobody."""
        leases = [SlotLease(_POOL, slot, host.host_id, 0) for slot in ALL_SLOTS]
        self.epoch = (await self.store.assign_slots(leases))[0].epoch

    async def announce(self, holder: Host, told: Sequence[Host] | None = None) -> None:
        """Bring a new snapshot to hosts and to the client, the holder first."""
        self.version += 1
        snapshot = Snapshot(
            version=self.version,
            types={
                name: TypeView(
                    name,
                    self.app.name,
                    _POOL,
                    prompts=False,
                    actions=frozenset(kind.actions),
                    idempotent=frozenset(n for n, s in kind.actions.items() if s.idempotent),
                    streams=frozenset(n for n, s in kind.actions.items() if s.streams),
                )
                for name, kind in self.app.types.items()
            },
            pools={_POOL: PoolView(_POOL, (holder.host_id,) * SLOTS)},
            hosts={host.host_id: HostRef(host.host_id, host.host_id) for host in self.all},
        )
        epochs = {(_POOL, slot): self.epoch for slot in ALL_SLOTS}
        for host in sorted(self.all, key=lambda host: host is not holder):
            if told is None or host in told:
                await host.update(snapshot, epochs if host is holder else {})
        self.client.update(snapshot)

    async def lease(self, host: Host) -> None:
        """Lease all slots to a host, and tell everybody."""
        await self.assign(host)
        await self.announce(host)

    async def release(self, host: Host, grace_s: float = 10.0) -> None:
        """Let a host give all slots up."""
        staying = set(ALL_SLOTS)
        while staying:
            staying.difference_update(await host.release(_POOL, sorted(staying), grace_s, True))

    async def call(self, agent: AgentId, action: str, timeout: float | None = 60.0) -> object:
        """Call an action without arguments from outside."""
        return await self.client.call(agent, action, (), {}, timeout=timeout)

    async def close(self) -> None:
        """End everything."""
        await self.client.close()
        for host in self.all:
            await host.abandon()
