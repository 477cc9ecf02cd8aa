"""Who waits for an agent's start may be called back by it; a start that waits for itself fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentFailed,
    App,
    Handle,
    Launch,
    ManagerClient,
    RestartPolicy,
    action,
)
from agentray.agent import AgentOptions
from agentray.testing import LocalRuntime, run

SOON_S = 2.0
"""What would wait for ever ends with its deadline, which is later."""


class Parent(Agent):
    """Launches children, and is called by them while it waits."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @action
    async def launch_child(self, name: str) -> list[str]:
        await self.launch(Child, name=name, args=(self.handle(Parent, self.id.key),))
        return self.heard

    @action
    async def call_child(self, name: str) -> list[str]:
        await self.handle(Plain, name).work()
        return self.heard

    @action
    async def call_after(self, name: str, seconds: float) -> list[str]:
        await asyncio.sleep(seconds)
        return await self.call_child(name)

    @action
    async def hear(self, name: str) -> str:
        self.heard.append(name)
        return self.id.key


class Child(Agent):
    """Asks its parent in `on_start`."""

    def __init__(self, parent: Handle[Parent]) -> None:
        self.parent = parent

    async def on_start(self) -> None:
        await self.parent.hear(self.id.key)


class Plain(Agent):
    """Needs no launch; asks the parent with its own key in `on_start`."""

    async def on_start(self) -> None:
        await self.handle(Parent, self.id.key).hear(self.id.key)

    @action
    async def work(self) -> None: ...


class Friend(Agent):
    """Asks another one in `on_start`, and more than once if it has to."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=2, backoff_s=0.01))

    def __init__(self, friend: Handle[Friend] | None = None, wait_s: float = 0.0) -> None:
        self.friend = friend
        self.wait_s = wait_s

    async def on_start(self) -> None:
        await asyncio.sleep(self.wait_s)
        if self.friend is not None:
            await self.friend.hello()

    @action
    async def hello(self) -> str:
        return self.id.key


class Selfish(Agent):
    """Calls itself in `on_start`."""

    async def on_start(self) -> None:
        await self.handle(Selfish, self.id.key).hello()

    @action
    async def hello(self) -> None: ...


class Greeter(Agent):
    """Tells another one in `on_start` that it is there, and goes on."""

    async def on_start(self) -> None:
        await self.handle(Answerer, self.id.key).greet.tell(self.id.key)
        await self.handle(Slow, self.id.key).work()

    @action
    async def answer(self) -> str:
        return "answered"


class Answerer(Agent):
    """Calls who greets it."""

    def __init__(self) -> None:
        self.got = ""

    @action
    async def greet(self, who: str) -> None:
        self.got = await self.handle(Greeter, who).answer()

    @action
    async def read(self) -> str:
        return self.got


class Slow(Agent):
    @action
    async def work(self) -> None:
        await asyncio.sleep(1.0)


APP = App("starts", [Parent, Child, Plain, Friend, Selfish, Greeter, Answerer, Slow])


def in_a_cluster(scenario: Callable[[ManagerClient], Awaitable[None]], hosts: int = 2) -> None:
    async def whole() -> None:
        async with LocalRuntime(hosts=hosts) as manager:
            await manager.deploy(APP)
            async with asyncio.timeout(SOON_S):
                await scenario(manager)

    run(whole())


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("name", [str(number) for number in range(4)])
def test_a_launched_agent_may_call_its_launcher_in_on_start(hosts: int, name: str) -> None:
    async def scenario(manager: ManagerClient) -> None:
        assert await manager.handle(Parent, "p").launch_child(name) == [name]

    in_a_cluster(scenario, hosts)


@pytest.mark.parametrize("name", [str(number) for number in range(4)])
def test_an_agent_that_a_call_starts_may_call_the_caller_in_on_start(name: str) -> None:
    async def scenario(manager: ManagerClient) -> None:
        assert await manager.handle(Parent, name).call_child(name) == [name]

    in_a_cluster(scenario)


@pytest.mark.parametrize("name", [str(number) for number in range(4)])
def test_so_may_one_whose_call_was_on_its_way_before_the_caller_came_to_wait(name: str) -> None:
    async def scenario(manager: ManagerClient) -> None:
        busy = asyncio.create_task(manager.handle(Parent, name).call_after(name, 0.5))
        await asyncio.sleep(0.1)
        first = asyncio.create_task(manager.handle(Plain, name).work())  # starts it; it calls
        assert await busy == [name]
        await first

    in_a_cluster(scenario)


def test_siblings_may_call_each_other_one_way_while_they_start() -> None:
    async def scenario(manager: ManagerClient) -> None:
        last = Launch(Friend, name="last", kwargs={"wait_s": 0.1})
        middle = Launch(Friend, (last.handle,), name="middle")
        first = Launch(Friend, (middle.handle,), name="first")
        handles = await manager.launch_batch([first, middle, last])
        assert [await handle.hello() for handle in handles] == ["first", "middle", "last"]

    in_a_cluster(scenario)


@pytest.mark.parametrize("waits", [(0.0, 0.0), (0.0, 0.1), (0.2, 0.1)])
@pytest.mark.parametrize("names", [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")])
def test_siblings_that_wait_for_each_other_are_told_so(
    waits: tuple[float, float], names: tuple[str, str]
) -> None:
    async def scenario(manager: ManagerClient) -> None:
        one = Launch(Friend, name=names[0])
        other = Launch(Friend, (one.handle, waits[1]), name=names[1])
        one.args = (other.handle, waits[0])
        with pytest.raises(AgentFailed, match="on_start"):
            await manager.launch_batch([one, other])
        assert await manager.find(type=Friend) == []

    in_a_cluster(scenario)


def test_a_ring_of_three_is_found_too() -> None:
    async def scenario(manager: ManagerClient) -> None:
        ring: list[Launch[Any]] = [Launch(Friend, name=name) for name in "xyz"]
        for number, launch in enumerate(ring):
            launch.args = (ring[number - 1].handle, 0.01 * number)
        with pytest.raises(AgentFailed, match="on_start"):
            await manager.launch_batch(ring)

    in_a_cluster(scenario)


def test_an_agent_that_calls_itself_in_on_start_is_told_so() -> None:
    async def scenario(manager: ManagerClient) -> None:
        with pytest.raises(AgentFailed, match="waits for itself"):
            await manager.handle(Selfish, "me").hello()

    in_a_cluster(scenario)


def test_who_was_told_something_may_wait_for_the_start() -> None:
    async def scenario(manager: ManagerClient) -> None:
        assert await manager.handle(Greeter, "g").answer() == "answered"
        assert await manager.handle(Answerer, "g").read() == "answered"

    in_a_cluster(scenario)
