"""Factories: what makes the agents of a type, instead of its constructor."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    ManagerClient,
    RestartPolicy,
    action,
)
from agentray.testing import LocalRuntime

made: Counter[str] = Counter()


class Greeter(Agent):
    options = AgentOptions(
        idle_timeout_s=0.1, restart=RestartPolicy(max_restarts=2, backoff_s=0.001)
    )

    def __init__(self, prefix: str, words: tuple[str, ...] = ()) -> None:
        self.prefix = prefix
        self.words = words

    @action
    async def greet(self) -> str:
        return " ".join((self.prefix, *self.words))


class Clock(Agent):
    def __init__(self, now: str = "never") -> None:
        self.now = now

    @action
    async def time(self) -> str:
        return self.now


def make_greeter(agent_id: AgentId, *words: str, mark: str = "!") -> Greeter:
    made[agent_id.key] += 1
    if agent_id.key == "unlucky" and made["unlucky"] < 3:
        raise ValueError("not yet")
    if agent_id.key == "broken":
        raise ValueError("never")
    if agent_id.key == "wrong":
        return Clock()  # pyright: ignore[reportReturnType]
    return Greeter(f"{agent_id}{mark}", words)


async def make_clock(agent_id: AgentId) -> Clock:
    await asyncio.sleep(0)
    return Clock(agent_id.key)


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    made.clear()
    app = App("made", [Greeter, Clock], factories={Greeter: make_greeter, Clock: make_clock})
    async with asyncio.timeout(180), LocalRuntime(hosts=1) as manager:
        await manager.deploy(app)
        yield manager


async def test_a_factory_knows_whom_it_makes(manager: ManagerClient) -> None:
    assert await manager.handle(Greeter, "ada").greet() == "greeter/ada!"
    assert await manager.handle(Clock, "noon").time() == "noon"


async def test_a_factory_gets_the_arguments_of_the_launch(manager: ManagerClient) -> None:
    launched = await manager.launch(Greeter, args=("a", "b"), kwargs={"mark": "?"}, name="l")
    assert await launched.greet() == "greeter/l? a b"


async def test_an_instance_is_carried_over_past_the_factory(manager: ManagerClient) -> None:
    launched = await manager.launch(Greeter("mine"), name="i")
    assert await launched.greet() == "mine"
    assert made["i"] == 0


async def test_a_factory_that_raises_is_tried_again_as_a_start_is(manager: ManagerClient) -> None:
    assert await manager.handle(Greeter, "unlucky").greet() == "greeter/unlucky!"
    assert made["unlucky"] == 3
    with pytest.raises(AgentFailed, match="never"):
        await manager.handle(Greeter, "broken").greet()
    assert made["broken"] == 3
    with pytest.raises(AgentFailed, match="never"):
        await manager.launch(Greeter, name="broken", max_retries=1)
    assert made["broken"] == 5


async def test_a_factory_that_makes_something_else_fails_the_agent(manager: ManagerClient) -> None:
    with pytest.raises(AgentFailed, match="must return Greeter, not Clock"):
        await manager.handle(Greeter, "wrong").greet()
    with pytest.raises(AgentFailed, match="unexpected keyword"):
        await manager.launch(Clock, kwargs={"zone": "utc"}, name="arguments")


async def test_other_factories_are_another_app(manager: ManagerClient) -> None:
    same = App("made", [Greeter, Clock], factories={Greeter: make_greeter, Clock: make_clock})
    assert await manager.deploy(same) == "unchanged"
    assert await manager.deploy(App("made", [Greeter, Clock])) == "replaced"


def test_factories_are_of_the_apps_agents_and_can_be_called() -> None:
    with pytest.raises(ConfigurationError, match="not among its agents"):
        App("made", [Clock], factories={Greeter: make_greeter})
    with pytest.raises(ConfigurationError, match="no function"):
        App("made", [Clock], factories={Clock: "make_clock"})  # pyright: ignore[reportArgumentType]
