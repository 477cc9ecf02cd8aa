"""Wrong inputs are told at once, by a typed error that says what to write instead."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    DeploymentStopped,
    Handle,
    ManagerClient,
    Pool,
    Prompt,
    UnknownAgentType,
    action,
    on,
)
from agentray.testing import LocalRuntime


class Bare(Agent):
    @action
    async def nothing(self) -> None: ...


class Told(Bare):
    """Has a text of its own."""


class Prompted(Agent):
    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        return prompt.text


class Alone(Agent):
    """Has a process of its own."""

    options = AgentOptions(pool="cells")

    @action
    async def nothing(self) -> None: ...


Try = Callable[[Any], Awaitable[Any]]


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("bare", [Bare, Told]))
        yield manager


WRONG: dict[str, tuple[Try, str]] = {
    "launch options": (lambda m: m.launch(Bare, options={}), r"options=\{\}.*AgentOptions\("),
    "launch name": (lambda m: m.launch(Bare, name=3), "name=3.*text"),
    "register name": (lambda m: m.register(Bare, name=3), "name=3.*text"),
    "launch args": (lambda m: m.launch(Bare, args="ada"), "args='ada'.*list"),
    "launch kwargs": (lambda m: m.launch(Bare, kwargs=[1]), r"kwargs=\[1\].*dict"),
    "launch labels": (lambda m: m.launch(Bare, labels="blue"), "Labels are texts by texts"),
    "launch retries": (lambda m: m.launch(Bare, max_retries="3"), "max_retries"),
    "wait handle": (lambda m: m.wait(m.handle(Bare, "a")), r"wait.*list.*wait\(\[handle\]\)"),
    "wait text": (lambda m: m.wait("bare/a"), r"wait.*list"),
    "wait number": (lambda m: m.wait([3]), "3 is no agent"),
    "find status": (lambda m: m.find(status="zz"), "status='zz'.*registered, running"),
    "handle key": (lambda m: m.handle(Bare, 3).nothing(), "key"),
    "shutdown grace": (lambda m: m.shutdown("bare/a", grace_s=-1), r"grace_s=-1.*0 or more"),
    "shutdown nan": (lambda m: m.shutdown("bare/a", grace_s=math.nan), r"grace_s=nan.*0 or more"),
    "shutdown text": (lambda m: m.shutdown("bare/a", grace_s="1"), r"grace_s='1'.*0 or more"),
    "shutdown whom": (lambda m: m.shutdown(3), "3 is no agent"),
    "pool name": (lambda m: m.add_pool("x y"), "'x y' is no name for a pool"),
    "default pool": (lambda m: m.remove_pool("default"), "is the default"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_input_is_a_configuration_error(manager: ManagerClient, name: str) -> None:
    attempt, told = WRONG[name]
    with pytest.raises(ConfigurationError, match=f"(?s){told}") as caught:
        await attempt(manager)
    assert name != "pool name" or "agent type" not in str(caught.value)


@pytest.mark.parametrize("timeout", [math.nan, -1, "soon", True])
def test_a_deadline_that_is_none_is_refused(timeout: Any) -> None:
    handle = Handle[Bare](AgentId("bare", "a"))
    with pytest.raises(ConfigurationError, match=r"timeout=.*seconds.*None"):
        handle.with_timeout(timeout)


def test_a_pool_says_that_it_is_one() -> None:
    with pytest.raises(ValueError, match="no name for a pool") as caught:
        Pool("x y")
    assert "agent type" not in str(caught.value)


async def test_a_prompt_without_an_entry_says_how_there_is_one(manager: ManagerClient) -> None:
    with pytest.raises(UnknownAgentType, match=r"entry=") as caught:
        await manager.prompt("hello")
    assert "(entry)" not in str(caught.value)


async def test_a_prompt_where_nothing_is_deployed_says_so() -> None:
    async with LocalRuntime(hosts=1) as manager:
        with pytest.raises(UnknownAgentType, match="No app is deployed"):
            await manager.prompt("hello")


async def test_a_description_has_no_text_that_is_not_the_agents_own(
    manager: ManagerClient,
) -> None:
    assert (await manager.handle(Bare, "a").describe())["doc"] == ""
    assert (await manager.handle(Told, "a").describe())["doc"] == "Has a text of its own."


async def cells(manager: ManagerClient) -> int:
    return sum(host["pool"].startswith("cells") for host in (await manager.status())["hosts"])


async def test_looking_at_an_isolated_agent_starts_no_host_for_it() -> None:
    async with LocalRuntime(hosts=1) as manager:
        pool = Pool("cells", hosts=1, isolation="actor")
        await manager.deploy(App("alone", [Alone], pools=[pool]))
        for key in ("a", "b"):  # more than there are hosts for
            alone = manager.handle(Alone, key)
            status = await alone.status()
            assert (status["agent"], status["status"]) == (f"alone/{key}", "not in memory")
            assert (await alone.stats())["completed"] == 0
            with pytest.raises(DeploymentStopped, match=r"no host.*first message"):
                await alone.ping()
        assert await cells(manager) == 0
        await manager.handle(Alone, "a").nothing()
        assert await manager.handle(Alone, "a").ping() >= 0.0
        assert (await manager.handle(Alone, "a").status())["status"] == "idle"
        assert (await manager.handle(Alone, "b").status())["status"] == "not in memory"
        with pytest.raises(DeploymentStopped, match=r"no host.*first message"):
            await manager.handle(Alone, "b").ping()
        assert await cells(manager) == 1


async def test_an_isolated_agent_that_has_ended_is_shown_as_it_is_without_a_host() -> None:
    async with LocalRuntime(hosts=1) as manager:
        pool = Pool("cells", hosts=2, isolation="actor")
        await manager.deploy(App("alone", [Alone], pools=[pool]))
        handle = await manager.launch(Alone, name="a")
        await manager.shutdown(handle)
        assert (await handle.status())["status"] == "stopped"


async def test_an_isolated_agent_is_described_without_a_host() -> None:
    async with LocalRuntime(hosts=1) as manager:
        pool = Pool("cells", hosts=1, isolation="actor")
        await manager.deploy(App("alone", [Alone], pools=[pool]))
        told = await manager.handle(Alone, "a").describe()
        assert (told["type"], told["doc"]) == ("alone", "Has a process of its own.")
        assert set(told["actions"]) == {"nothing"}
        assert await cells(manager) == 0
