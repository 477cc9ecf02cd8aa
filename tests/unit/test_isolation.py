"""Isolated agents: each has a host of its own, from its first message until it has left memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    HostDied,
    ManagerClient,
    Overloaded,
    Pool,
    PoolPending,
    Prompt,
    RunStatus,
    TerminateEvent,
    action,
    on,
)
from agentray.runtime import seats
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async


class Count(BaseModel):
    n: int = 0


class Done(TerminateEvent):
    text: str


class Alone(Agent):
    options = AgentOptions(pool="cells", idle_timeout_s=20)
    state: Count

    @action
    async def increment(self) -> int:
        self.state.n += 1
        return self.state.n

    @action
    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @action
    async def ask(self, other: str) -> int:
        return await self.handle(Alone, other).increment()

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Done:
        return Done(text=prompt.text)


def app(hosts: int = 3, **settings: Any) -> App:
    return App(
        "alone_app", [Alone], pools=[Pool("cells", hosts=hosts, isolation="actor", **settings)]
    )


async def cells(manager: ManagerClient) -> dict[str, Any]:
    return next(row for row in await manager.pools() if row["name"] == "cells")


async def test_each_agent_has_a_host_of_its_own_from_its_first_message_on() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app())
        row = await cells(manager)
        assert (row["hosts"], row["wanted"], row["status"]) == (0, 0, "idle")
        agents = [manager.handle(Alone, key) for key in "abc"]
        assert await asyncio.gather(*(agent.increment() for agent in agents)) == [1, 1, 1]
        homes = {runtime.host_of(agent.id) for agent in agents}
        assert len(homes) == 3
        assert None not in homes
        status = await manager.status()
        assert homes == {h["id"] for h in status["hosts"] if h["pool"].startswith("cells")}
        assert [pool["name"] for pool in status["pools"]] == ["default", "cells"]
        row = await cells(manager)
        assert (row["hosts"], row["max_hosts"], row["isolation"]) == (3, 3, "actor")


async def test_beyond_the_most_hosts_callers_are_told_to_come_again() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(app(hosts=2))
        await asyncio.gather(*(manager.handle(Alone, key).increment() for key in "ab"))
        with pytest.raises(Overloaded, match="a host for each of 2 agents"):
            await manager.handle(Alone, "c").increment()


async def test_an_agents_host_that_dies_is_replaced_and_its_state_is_kept() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app())
        agent, other = manager.handle(Alone, "a"), manager.handle(Alone, "b")
        await asyncio.gather(agent.increment(), other.increment())
        first = runtime.host_of(agent.id)
        assert first is not None
        call = asyncio.create_task(agent.wait(60))
        await asyncio.sleep(0.1)
        await runtime.kill_host(first)
        with pytest.raises(HostDied):
            await call
        assert await agent.increment() == 2
        assert runtime.host_of(agent.id) not in {first, runtime.host_of(other.id)}


async def test_isolated_agents_call_each_other_and_take_prompts() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(app())
        run = await manager.prompt("hello", agent=Alone)
        assert run.status is RunStatus.SUCCEEDED
        assert run.result == {"text": "hello"}
        assert await manager.handle(Alone, "a").ask("b") == 1


def test_a_host_stops_when_its_agent_has_left_memory_and_the_seat_is_used_again() -> None:
    async def come_and_go() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(app(hosts=1))
            first = manager.handle(Alone, "a")
            assert await first.increment() == 1
            home = runtime.host_of(first.id)
            await asyncio.sleep(25 + seats.IDLE_S + 10)
            assert (await cells(manager))["hosts"] == 0
            assert home not in runtime.hosts
            assert await manager.handle(Alone, "b").increment() == 1
            await asyncio.sleep(25 + seats.IDLE_S + 10)
            assert await first.increment() == 2

    virtual_time.run(come_and_go())


def test_an_isolated_agent_is_pending_where_there_is_no_room_for_its_host() -> None:
    async def wait() -> None:
        runtime = LocalRuntime(resources={"GPU": 1})
        async with runtime as manager:
            assert await manager.deploy(app(num_gpus=1)) == "added"
            assert await manager.handle(Alone, "a").increment() == 1
            with pytest.raises(PoolPending, match="1 GPU"):
                await manager.handle(Alone, "b").increment()
            runtime.provide({"GPU": 2})
            await asyncio.sleep(3)
            assert await manager.handle(Alone, "b").increment() == 1

    virtual_time.run(wait())


async def test_the_hosts_of_a_removed_pool_stop_and_another_one_takes_its_agents() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app())
        agents = [manager.handle(Alone, key) for key in "abc"]
        await asyncio.gather(*(agent.increment() for agent in agents))
        calls = [asyncio.create_task(agent.wait(0.3)) for agent in agents]
        await asyncio.sleep(0.1)
        with pytest.raises(ConfigurationError, match="cannot change while it exists"):
            await manager.add_pool("cells", hosts=3)
        await manager.remove_pool("cells", successor="default")
        assert await asyncio.gather(*calls) == ["done"] * 3
        assert await asyncio.gather(*(agent.increment() for agent in agents)) == [2, 2, 2]
        status = await manager.status()
        assert {h["pool"] for h in status["hosts"]} == {"default"}


async def test_another_manager_finds_the_hosts_of_isolated_agents_again() -> None:
    store = MemoryStore()
    runtime = LocalRuntime(store=store)
    async with runtime as manager:
        await manager.deploy(app())
        agent = manager.handle(Alone, "a")
        assert await agent.increment() == 1
        home = runtime.host_of(agent.id)
        await runtime.restart_manager()

        async def known() -> bool:
            return (await cells(manager))["hosts"] == 1

        await eventually_async(known)
        assert await agent.increment() == 2
        assert runtime.host_of(agent.id) == home
