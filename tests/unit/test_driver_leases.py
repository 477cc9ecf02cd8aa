"""Driver leases, in virtual time: agents of a connection end when it is silent for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agentray import Agent, AgentStatus, App, ManagerClient, action
from agentray.errors import StoreUnavailable
from agentray.runtime.channel import Channel
from agentray.runtime.driver_leases import LEASE_S, SWEEP_S
from agentray.runtime.watcher import ManagerPort, SnapshotWatcher
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.virtual_time import run


class Bound(Agent):
    @action
    async def hello(self) -> str:
        return "hello"


class Driver:
    """Another driver of a runtime, which can die without a word."""

    def __init__(self, runtime: LocalRuntime, manager: ManagerPort) -> None:
        self._channel = Channel(runtime.network)
        self._watcher = SnapshotWatcher(manager, self._channel)
        self.client = ManagerClient(manager, self._channel)

    async def __aenter__(self) -> ManagerClient:
        await self._watcher.start()
        return self.client

    async def __aexit__(self, *_: object) -> None:
        """Die: whatever it did stops, and nobody is told."""
        await self.client._launcher._tasks.close()  # pyright: ignore[reportPrivateUsage]
        await self._watcher.close()
        await self._channel.close()


def port_of(manager: ManagerClient) -> ManagerPort:
    return manager._manager  # pyright: ignore[reportPrivateUsage]


async def statuses(manager: ManagerClient) -> Sequence[str]:
    found = await manager.find(type=Bound)
    return [record.status for record in sorted(found, key=lambda record: record.id)]


def test_agents_outlive_a_silence_that_is_short_and_end_after_a_long_one() -> None:
    async def story() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("bound", [Bound]))
            async with Driver(runtime, port_of(manager)) as driver:
                await driver.launch(Bound, name="1", lifetime="driver")
                await driver.register(Bound, name="2", lifetime="driver")
                await driver.launch(Bound, name="3")
                await manager.launch(Bound, name="4", lifetime="driver")
                await asyncio.sleep(10 * LEASE_S)
                assert await statuses(manager) == ["running", "registered", "running", "running"]
            await asyncio.sleep(LEASE_S / 2)
            assert await statuses(manager) == ["running", "registered", "running", "running"]
            await asyncio.sleep(LEASE_S / 2 + 2 * SWEEP_S)
            assert await statuses(manager) == ["stopped", "stopped", "running", "running"]

    run(story())


def test_a_manager_that_comes_back_gives_drivers_the_time_to_renew() -> None:
    async def story() -> None:
        store = MemoryStore()
        runtime = LocalRuntime(hosts=1, store=store)
        async with runtime as manager:
            await manager.deploy(App("bound", [Bound]))
            async with Driver(runtime, port_of(manager)) as driver:
                await driver.launch(Bound, name="1", lifetime="driver")
        async with LocalRuntime(hosts=1, store=store) as manager:
            await asyncio.sleep(LEASE_S / 2)
            assert await statuses(manager) == [AgentStatus.RUNNING]
            await asyncio.sleep(LEASE_S / 2 + 2 * SWEEP_S)
            assert await statuses(manager) == [AgentStatus.STOPPED]

    run(story())


class Stumbling:
    """A manager that fails to renew leases in ways that are not foreseen, twice."""

    def __init__(self, manager: ManagerPort) -> None:
        self._manager = manager
        self.errors: list[Exception] = [TimeoutError("late"), StoreUnavailable("away")]
        self.leased = False

    async def call(self, method: str, *args: Any) -> Any:
        if method == "renew_driver":
            if self.leased and self.errors:
                raise self.errors.pop()
            self.leased = True
        return await self._manager.call(method, *args)


def test_a_lease_is_renewed_after_whatever_error() -> None:
    async def story() -> None:
        runtime = LocalRuntime(hosts=1)
        async with runtime as manager:
            await manager.deploy(App("bound", [Bound]))
            port = Stumbling(port_of(manager))
            async with Driver(runtime, port) as driver:
                await driver.launch(Bound, name="1", lifetime="driver")
                await asyncio.sleep(4 * LEASE_S)
                assert port.errors == []
                assert await statuses(manager) == [AgentStatus.RUNNING]

    run(story())
