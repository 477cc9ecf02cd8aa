"""Real hosts and channels on wires that a test holds, loses or delays; no manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentray import App
from agentray.ids import SLOTS, AgentId
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import HostRef, PoolView, Snapshot, TypeView
from agentray.runtime.channel import Channel
from agentray.runtime.host import Host
from agentray.runtime.packing import pack_app
from agentray.store.memory import MemoryStore

Request = Callable[[Packet], Awaitable[Packet]]


class Wire:
    """The way to a host; what a test puts into `on_deliver` and `on_collect` happens instead."""

    def __init__(self, host: Host) -> None:
        self.on_deliver: Request = host.deliver
        self.on_collect: Request = host.collect

    def close(self) -> None:
        pass

    async def deliver(self, packet: Packet) -> Packet:
        return await self.on_deliver(packet)

    async def collect(self, packet: Packet) -> Packet:
        return await self.on_collect(packet)


class Wires:
    """A connector."""

    def __init__(self) -> None:
        self.to: dict[str, Wire] = {}

    def connect(self, host: HostRef) -> Any:
        return self.to[host.id]

    async def seat(self, agent: AgentId) -> Snapshot:
        raise AssertionError(f"{agent} has a host.")

    async def about(self, agent: AgentId, what: str) -> None:
        raise AssertionError(f"{agent} is not isolated: {what}")

    async def let_out(self, agent: AgentId) -> bool:
        raise AssertionError(f"{agent} is not in quarantine.")


@dataclass
class Bench:
    """One host that leases everything, and a driver's channel to it."""

    app: App
    host: Host
    wire: Wire
    channel: Channel

    def snapshot(self, version: int = 1, *, stopped: bool = False) -> Snapshot:
        return snapshot_of(self.app, self.host.host_id, version, stopped=stopped)

    async def close(self) -> None:
        await self.channel.close()
        await self.host.abandon()


def snapshot_of(app: App, holder: str, version: int, *, stopped: bool = False) -> Snapshot:
    types = {
        name: TypeView(
            name,
            app.name,
            "default",
            prompts=False,
            stopped=stopped,
            idempotent=frozenset(a for a, spec in kind.actions.items() if spec.idempotent),
            streams=frozenset(a for a, spec in kind.actions.items() if spec.streams),
            actions=frozenset(kind.actions),
        )
        for name, kind in app.types.items()
    }
    hosts = {holder: HostRef(holder, f"agentray-{holder}")}
    pools = {"default": PoolView("default", (holder,) * SLOTS)}
    return Snapshot(version=version, types=types, pools=pools, hosts=hosts)


async def bench_of(app: App) -> Bench:
    """Put a bench up; needs a running loop."""
    wires = Wires()
    host = Host("host-1", MemoryStore(), wires)
    wire = wires.to["host-1"] = Wire(host)
    await host.load({app.name: encode(pack_app(app))})
    snapshot = snapshot_of(app, "host-1", 1)
    await host.update(snapshot, {("default", slot): 1 for slot in range(SLOTS)})
    channel = Channel(wires)
    channel.update(snapshot)
    return Bench(app, host, wire, channel)
