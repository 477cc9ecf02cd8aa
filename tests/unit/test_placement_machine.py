"""A real manager with real hosts, in virtual time: random misfortunes and changes of pools.

Whatever happens, a slot has one holder, epochs only rise, what was acknowledged is kept, and when
nothing more happens everything is as it was wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    Handle,
    HostDied,
    ManagerClient,
    Pool,
    PoolPending,
    action,
)
from agentray.core.placement import plan_slots
from agentray.errors import StartFailed, UnknownPart
from agentray.store.orders import Order, OrderKind
from agentray.testing import LocalRuntime
from tests.support.virtual_time import VirtualTimeLoop

POOLS = ["side", "extra"]
KEYS = ["a", "b", "c", "d"]
NODES = ["north", "south"]
SETTLED_S = 60.0
pools = st.sampled_from(POOLS)


class Count(BaseModel):
    n: int = 0


class Plain(Agent):
    options = AgentOptions(name="plain")
    state: Count

    @action
    async def increment(self) -> int:
        await asyncio.sleep(0.05)
        self.state.n += 1
        return self.state.n


class Aside(Plain):
    options = AgentOptions(name="aside", pool="side")
    state: Count


class PlacementMachine(RuleBasedStateMachine):
    """Does things to a cluster one after the other; time passes in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        asyncio.set_event_loop(self.loop)
        self.epochs: dict[tuple[str, int], int] = {}
        self.done: Counter[tuple[str, str]] = Counter()  # acknowledged increments
        self.unknown: Counter[tuple[str, str]] = Counter()  # those that nobody can tell about
        self.drained: set[str] = set()  # hosts
        self.drained_nodes: set[str] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something; within an hour of virtual time it must have ended."""

        async def bounded() -> Any:
            return await asyncio.wait_for(work, 3600)

        return self.loop.run_until_complete(bounded())

    def attempt(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do what may be refused for a reason that is told."""
        try:
            self.run(work)
        except (ConfigurationError, UnknownPart, PoolPending, StartFailed):
            return

    @initialize(hosts=st.integers(1, 3), side=st.integers(1, 3))
    def begin(self, hosts: int, side: int) -> None:
        self.runtime = LocalRuntime(hosts=hosts, resources={"CPU": 3}, nodes=NODES)
        self.manager: ManagerClient = self.run(self.runtime.__aenter__())
        app = App("machine", [Plain, Aside], pools=[Pool("side", hosts=side)])
        self.run(self.manager.deploy(app))

    # What happens

    @rule(name=pools, hosts=st.integers(1, 4), cpus=st.sampled_from([0, 0, 1, 9]))
    def a_pool_is_added_or_changed(self, name: str, hosts: int, cpus: int) -> None:
        self.attempt(self.manager.add_pool(name, hosts=hosts, num_cpus=cpus))

    @rule(name=pools, successor=st.sampled_from(["default", *POOLS, None]))
    def a_pool_is_removed(self, name: str, successor: str | None) -> None:
        self.attempt(self.manager.remove_pool(name, successor=successor))

    @rule(name=st.sampled_from(["default", *POOLS]))
    def another_pool_is_the_default(self, name: str) -> None:
        self.attempt(self.manager.set_default_pool(name))

    @precondition(lambda self: self.runtime.hosts)
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 0.5, 40.0]))
    def a_host_is_drained(self, data: st.DataObject, wait_s: float) -> None:
        host = data.draw(st.sampled_from(self.runtime.hosts))
        try:
            told = self.run(self.manager.drain_host(host, timeout=wait_s))
        except UnknownPart:
            return  # the manager does not know it any more
        self.drained.add(host)
        assert told["drained"] == (host not in self.runtime.hosts) or not told["drained"]
        assert told["drained"] or told["waiting"]

    @rule(node=st.sampled_from(NODES), wait_s=st.sampled_from([0.0, 20.0]))
    def a_node_is_drained(self, node: str, wait_s: float) -> None:
        self.run(self.manager.drain_node(node, timeout=wait_s))
        self.drained_nodes.add(node)

    @rule(node=st.sampled_from(NODES))
    def a_node_is_taken_into_use_again(self, node: str) -> None:
        self.run(self.manager.undrain_node(node))
        self.drained_nodes.discard(node)

    @rule(name=st.sampled_from(["default", *POOLS]), hosts=st.sampled_from([1, 2, 4, None]))
    def a_pool_is_scaled(self, name: str, hosts: int | None) -> None:
        self.attempt(self.manager.scale_pool(name, hosts, timeout=5.0))

    @precondition(lambda self: self.runtime.hosts)
    @rule(data=st.data(), name=st.sampled_from(["default", *POOLS]))
    def slots_are_moved_by_hand(self, data: st.DataObject, name: str) -> None:
        host = data.draw(st.sampled_from(self.runtime.hosts))
        self.attempt(self.manager.move_slots(range(7, 256, 9), host, pool=name, timeout=5.0))

    @rule(name=st.sampled_from(["default", *POOLS]))
    def slots_are_spread_evenly_again(self, name: str) -> None:
        self.attempt(self.manager.balance_pool(name))

    @precondition(lambda self: self.runtime.hosts)
    @rule(data=st.data())
    def a_host_dies(self, data: st.DataObject) -> None:
        self.run(self.runtime.kill_host(data.draw(st.sampled_from(self.runtime.hosts))))

    @rule()
    def the_manager_dies(self) -> None:
        self.run(self.runtime.restart_manager())

    @rule(cpus=st.integers(0, 6))
    def the_machine_is_another_one(self, cpus: int) -> None:
        self.runtime.provide({"CPU": cpus})

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(meanwhile=st.sampled_from(["nothing", "death", "default"]), data=st.data())
    def agents_are_called(self, meanwhile: str, data: st.DataObject) -> None:
        victims = self.runtime.hosts
        victim = data.draw(st.sampled_from(victims)) if victims else None
        target = data.draw(st.sampled_from(["default", *POOLS]))

        async def call() -> None:
            calls = [
                asyncio.create_task(self.increment(kind, key))
                for kind in ("plain", "aside")
                for key in KEYS
            ]
            await asyncio.sleep(0.02)
            if meanwhile == "death" and victim is not None:
                await self.runtime.kill_host(victim)
            elif meanwhile == "default":
                with contextlib.suppress(ConfigurationError, UnknownPart, PoolPending, StartFailed):
                    await self.manager.set_default_pool(target)
            await asyncio.gather(*calls)

        self.run(call())

    async def increment(self, kind: str, key: str) -> None:
        agent: Handle[Any] = self.manager.handle(kind, key)
        agent = agent.with_timeout(300)
        try:
            counted = await agent.increment()
        except PoolPending:
            return  # it was not sent
        except HostDied:
            self.unknown[kind, key] += 1
        else:
            self.done[kind, key] += 1
            most = self.done[kind, key] + self.unknown[kind, key]
            assert self.done[kind, key] <= counted <= most, "an increment was lost, or done twice"

    # What holds

    @invariant()
    def epochs_only_rise(self) -> None:
        for lease in self.run(self.runtime.store.list_slots()):
            before = self.epochs.get((lease.pool, lease.slot), 0)
            assert lease.epoch >= before
            self.epochs[lease.pool, lease.slot] = lease.epoch

    @invariant()
    def no_slot_has_two_holders(self) -> None:
        holders: dict[tuple[str, int, int], str] = {}
        for host_id in self.runtime.hosts:
            host = self.runtime.network.hosts[host_id]._host  # pyright: ignore[reportPrivateUsage]
            held: Mapping[tuple[str, int], int] = {}
            if host is not None:
                held = host.held.held
            for (pool, slot), epoch in held.items():
                other = holders.setdefault((pool, slot, epoch), host_id)
                assert other == host_id, f"slot {slot} of {pool} is held twice"

    def pins_of(self, pool: str) -> dict[int, str]:
        """Return what was moved by hand, as it is kept."""
        orders: list[Order] = self.run(self.runtime.store.list_orders())
        return {
            int(order.subject.rpartition("/")[2]): order.value
            for order in orders
            if order.kind is OrderKind.PIN_SLOT and order.subject.startswith(f"{pool}/")
        }

    @rule()
    def it_settles(self) -> None:
        """Nothing more happens: all is as wanted, and each agent answers or says why not."""
        self.run(asyncio.sleep(SETTLED_S))
        rows: list[dict[str, Any]] = self.run(self.manager.pools())
        status = self.run(self.manager.status())
        assert status["manager"]["failed_steps"] == {}
        for row in rows:
            live = [
                h["id"]
                for h in status["hosts"]
                if h["pool"] == row["name"] and h["status"] == "live"
            ]
            assert row["hosts"] == len(live), row
            # Old hosts go on where the new ones, fewer or more, wait for room.
            assert row["pending"] or len(live) == row["wanted"], row
            if live:
                slots = [
                    lease.host for lease in self.run(self.runtime.store.list_slots(row["name"]))
                ]
                assert row["slots"] == len(slots)
                held = {h["id"]: h["slots"] for h in status["hosts"] if h["id"] in live}
                assert held == {host: slots.count(host) for host in live}
                assert set(slots) <= set(live)
                pins = self.pins_of(row["name"])
                assert plan_slots(slots, live, pins) == {}, "leases are spread evenly"
            if not row["pending"]:
                assert not self.drained & set(live), "a drained host is gone"
                nodes = {self.runtime.network.node_of[host] for host in live}
                assert not nodes & self.drained_nodes, "no host is left on a drained node"
        for kind in ("plain", "aside"):
            for key in KEYS:
                self.run(self.increment(kind, key))

    def teardown(self) -> None:
        if not hasattr(self, "runtime"):
            return
        try:
            self.it_settles()
        finally:
            self.run(self.runtime.__aexit__(None, None, None))
            asyncio.set_event_loop(None)
            self.loop.close()


PlacementMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None
)
TestPlacementOfARealManager: Any = PlacementMachine.TestCase
