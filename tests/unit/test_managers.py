"""Several managers by mistake: one works, the others say so and stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from pydantic import BaseModel

from agentray import Agent, App, action
from agentray.core.leadership import LEASE_S, RENEW_S, Candidate, Lead, Standing
from agentray.errors import HostDied, ManagerSuperseded, ManagerUnavailable, StoreUnavailable
from agentray.protocol.deployment import PoolSpec
from agentray.runtime.channel import Channel
from agentray.runtime.leadership import Leadership
from agentray.runtime.manager import Manager
from agentray.runtime.manager_watch import LOOK_S, ManagerWatch
from agentray.runtime.redrive import Redriver
from agentray.runtime.tasks import TaskSet
from agentray.store.base import SlotLease, Store
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async


class Total(BaseModel):
    n: int = 0


class Adder(Agent):
    state: Total

    @action
    async def add(self) -> int:
        self.state.n += 1
        return self.state.n


class Maker:
    """Brings no manager back, and is not asked to."""

    async def standing(self, lead: Lead) -> Standing:
        del lead
        return Standing.ITSELF

    async def restart(self, lead: Lead) -> None:
        raise AssertionError(lead)

    async def make(self) -> None:
        raise AssertionError("nobody is missing")


class Line(MemoryStore):
    """One process's way to a store that others use, too; it can be cut."""

    __slots__ = ("cut",)

    def __init__(self, shared: MemoryStore) -> None:
        self.__dict__ = shared.__dict__
        self.cut = False

    async def read_lead(self) -> tuple[Lead | None, float]:
        if self.cut:
            raise StoreUnavailable
        return await super().read_lead()

    async def assign_slots(
        self, leases: Sequence[SlotLease], *, dead_hosts: Mapping[str, str] | None = None
    ) -> list[SlotLease]:
        if self.cut:
            raise StoreUnavailable
        return await super().assign_slots(leases, dead_hosts=dead_hosts)


async def manager_at(runtime: LocalRuntime, store: Store, place: str) -> Manager:
    """Start another manager over the hosts of a runtime."""
    lead = await Leadership.gain(store, Candidate(place, f"manager at {place}"))
    manager = Manager(
        lead.store,
        runtime.network,
        lead=lead,
        host_setup=b"",
        default_hosts=2,
        redriver=Redriver(lead.store, Channel(runtime.network)),
    )
    await manager.start()
    return manager


async def until_it_knows(manager: Manager) -> None:
    """Wait until a manager has found out that the one elsewhere leads."""

    async def knows() -> bool:
        try:
            manager.check_leads()
        except ManagerSuperseded as error:
            return error.working == "manager at elsewhere"
        return False

    await eventually_async(knows, timeout_s=3 * RENEW_S)


def test_a_second_manager_yields_to_the_one_that_works() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        runtime = LocalRuntime(store=store)
        async with runtime as manager:
            await manager.deploy(App("adding", [Adder]))
            before = (await manager.status())["hosts"]
            with pytest.raises(ManagerSuperseded, match="a local runtime's manager"):
                await manager_at(runtime, store, "elsewhere")
            assert [h["id"] for h in before] == [h["id"] for h in (await manager.status())["hosts"]]
            assert await manager.handle(Adder, "a").add() == 1

    run(scenario())


def test_a_manager_that_stops_lets_the_next_one_begin_at_once() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        async with LocalRuntime(store=store) as manager:
            await manager.deploy(App("adding", [Adder]))
        begun = asyncio.get_running_loop().time()
        async with LocalRuntime(store=store) as manager:
            assert await manager.handle(Adder, "a").add() == 1
        assert asyncio.get_running_loop().time() - begun < LEASE_S / 2

    run(scenario())


def test_one_that_was_away_too_long_finds_another_one_at_work_and_stops() -> None:
    async def scenario() -> None:
        shared = MemoryStore()
        line = Line(shared)
        runtime = LocalRuntime(store=line)
        async with runtime as manager:
            await manager.deploy(App("adding", [Adder]))
            assert await manager.handle(Adder, "a").add() == 1
            first, hosts = runtime.manager, runtime.hosts
            line.cut = True
            second = await manager_at(runtime, Line(shared), "elsewhere")
            assert sorted(h["id"] for h in second.status()["hosts"]) == sorted(hosts)
            # What the first one says now is older than all that the second one says.
            told = [await m.watch(-1) for m in (first, second)]
            assert [s.version for s in told if s] == sorted({s.version for s in told if s})
            line.cut = False

            await until_it_knows(first)
            with pytest.raises(ManagerSuperseded, match="manager at elsewhere"):
                await manager.status()
            assert runtime.hosts == hosts, "it has not touched the hosts"
            assert await manager.handle(Adder, "a").add() == 2  # messages need no manager

            # And it does nothing any more: what dies now is the second one's business.
            await runtime.kill_host(hosts[0])

            async def replaced() -> bool:
                return len([h for h in second.status()["hosts"] if h["status"] == "live"]) == 2

            await eventually_async(replaced)
            assert len(runtime.hosts) == 2
            runtime.manager = second  # the runtime ends with the one that works

    run(scenario())


def test_what_one_writes_that_does_not_know_yet_is_refused_and_its_caller_told() -> None:
    async def scenario() -> None:
        shared = MemoryStore()
        line = Line(shared)
        runtime = LocalRuntime(store=line)
        async with runtime as manager:
            await manager.deploy(App("adding", [Adder]))
            line.cut = True
            second = await manager_at(runtime, Line(shared), "elsewhere")
            pools = await shared.list_pools()
            with pytest.raises(ManagerSuperseded, match="manager at elsewhere"):
                await runtime.manager.add_pool(PoolSpec("late", 1))
            with pytest.raises(ManagerUnavailable):
                await manager.stop("adding")
            assert await shared.list_pools() == pools
            assert [app.status for app in await shared.list_apps()] == ["running"]
            line.cut = False
            await until_it_knows(runtime.manager)
            runtime.manager = second

    run(scenario())


def test_a_manager_that_hangs_is_restarted_once_and_fails_over_what_died_meanwhile() -> None:
    async def scenario() -> None:
        shared = MemoryStore()
        line = Line(shared)
        runtime = LocalRuntime(store=line)
        restarted: list[Lead] = []

        class Restarts(Maker):
            async def restart(self, lead: Lead) -> None:
                restarted.append(lead)
                line.cut = False  # it was this process's own
                await runtime.restart_manager()

        async with runtime as manager:
            tasks = TaskSet("watches")
            for _ in range(3):
                tasks.spawn(ManagerWatch(Line(shared), Restarts()).run())
            await manager.deploy(App("adding", [Adder]))
            assert await manager.handle(Adder, "a").add() == 1
            await asyncio.sleep(3 * LEASE_S)
            assert restarted == [], "it works"

            first, lead = runtime.manager, (await shared.read_lead())[0]
            epoch = lead.epoch if lead else 0
            line.cut = True  # it neither renews its lead nor does anything that needs it
            loop = asyncio.get_running_loop()
            hung_at = loop.time()
            victim = runtime.host_of(manager.handle(Adder, "a").id)
            assert victim is not None
            await runtime.kill_host(victim)
            with pytest.raises(HostDied):
                await manager.handle(Adder, "a").add()
            assert await manager.handle(Adder, "a").add() == 2, "waits for the agent's next host"
            assert loop.time() - hung_at < LEASE_S + 2 * LOOK_S + 1
            assert [lead.epoch for lead in restarted] == [epoch]
            with pytest.raises(ManagerSuperseded):
                await first.add_pool(PoolSpec("late", 1))
            await asyncio.sleep(10 * LEASE_S)
            assert len(restarted) == 1
            assert len(runtime.hosts) == 2
            await tasks.close()

    run(scenario())


def test_a_manager_that_is_gone_for_good_is_made_anew_and_fails_over_what_died_meanwhile() -> None:
    async def scenario() -> None:
        shared = MemoryStore()
        runtime = LocalRuntime(store=shared)
        made: list[float] = []
        there = True
        loop = asyncio.get_running_loop()

        class Makes(Maker):
            async def standing(self, lead: Lead) -> Standing:
                del lead
                if not there:
                    return Standing.NOBODY
                return Standing.ANOTHER if made else Standing.ITSELF

            async def make(self) -> None:
                nonlocal there
                if there:
                    return  # as Ray refuses a second one of the name
                there = True
                made.append(loop.time())
                await runtime.restart_manager()

        async with runtime as manager:
            tasks = TaskSet("watches")
            for _ in range(3):
                tasks.spawn(ManagerWatch(Line(shared), Makes()).run())
            await manager.deploy(App("adding", [Adder]))
            assert await manager.handle(Adder, "a").add() == 1
            victim = runtime.host_of(manager.handle(Adder, "a").id)
            assert victim is not None
            there, runtime.restarting = False, True  # nobody brings this one back
            await runtime.manager.abandon()
            gone_at = loop.time()
            await runtime.kill_host(victim)
            with pytest.raises(HostDied):
                await manager.handle(Adder, "a").add()
            assert await manager.handle(Adder, "a").add() == 2, "waits for the agent's next host"
            assert loop.time() - gone_at < LEASE_S + 2 * LOOK_S + 1
            await asyncio.sleep(10 * LEASE_S)
            assert len(made) == 1
            assert len(runtime.hosts) == 2
            await tasks.close()

    run(scenario())


def test_a_manager_that_was_stopped_is_not_made_anew() -> None:
    async def scenario() -> None:
        shared = MemoryStore()

        class Never(Maker):
            async def standing(self, lead: Lead) -> Standing:
                del lead
                return Standing.NOBODY

        async with LocalRuntime(store=shared) as manager:
            await manager.deploy(App("adding", [Adder]))
        tasks = TaskSet("watches")
        tasks.spawn(ManagerWatch(shared, Never()).run())
        await asyncio.sleep(10 * LEASE_S)
        await tasks.close()

    run(scenario())


def test_a_manager_is_not_restarted_because_the_store_was_away() -> None:
    async def scenario() -> None:
        shared = MemoryStore()
        lines = [Line(shared) for _ in range(4)]
        restarted: list[Lead] = []

        class Notes(Maker):
            async def restart(self, lead: Lead) -> None:
                restarted.append(lead)

        async with LocalRuntime(store=lines[0]) as manager:
            tasks = TaskSet("watches")
            for line in lines[1:]:
                tasks.spawn(ManagerWatch(line, Notes()).run())
            await asyncio.sleep(LEASE_S)
            for line in lines:
                line.cut = True
            await asyncio.sleep(5 * LEASE_S)
            for line in lines:
                line.cut = False
            await asyncio.sleep(5 * LEASE_S)
            assert restarted == []
            assert (await manager.status())["hosts"]
            await tasks.close()

    run(scenario())


def test_a_manager_kills_nothing_while_it_cannot_know_that_it_leads() -> None:
    async def scenario() -> None:
        line = Line(MemoryStore())
        runtime = LocalRuntime(store=line)
        async with runtime as manager:
            await manager.deploy(App("adding", [Adder]))
            hosts = runtime.hosts
            line.cut = True
            await asyncio.sleep(LEASE_S)
            runtime.cut_off(hosts[0])  # it looks wedged: after three missed heartbeats it is killed
            await asyncio.sleep(3 * LEASE_S)
            assert runtime.hosts == hosts
            line.cut = False

            async def replaced() -> bool:
                return hosts[0] not in runtime.hosts and len(runtime.hosts) == 2

            await eventually_async(replaced)

    run(scenario())
