"""Removing an app: its types are free, its code is gone, other apps notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    AgentStatus,
    App,
    ConfigurationError,
    Event,
    ManagerClient,
    Pool,
    RestartPolicy,
    UnknownAgentType,
    action,
    on,
)
from agentray.patterns import DurableMemory, Memory
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Count(BaseModel):
    n: int = 0


class Told(Event):
    """On a topic."""


class Counter(Agent):
    state: Count

    @action
    async def add(self) -> int:
        self.state.n += 1
        return self.state.n


class Other(Agent):
    """Of another app, in the same pool."""

    @action
    async def work(self, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @action
    async def remember(self, n: int) -> int:
        return await Memory(self, "team", DurableMemory).put("n", n)


class Listener(Agent):
    @on(Told, subscribe=False)
    async def hear(self, told: Told) -> None:
        """Nothing to do."""


class Standing(Agent):
    options = AgentOptions(restart=RestartPolicy(restart="permanent"))

    @action
    async def hello(self) -> str:
        return "hello"


class OnOwn(Agent):
    options = AgentOptions(pool="own")

    @action
    async def hello(self) -> str:
        return "hello"


class Alone(Agent):
    options = AgentOptions(pool="alone")

    @action
    async def hello(self) -> str:
        return "hello"


def renamed(name: str) -> type[Agent]:
    """Another class with this type name."""

    class Another(Agent):
        options = AgentOptions(name=name)

        @action
        async def what(self) -> str:
            return "another"

    return Another


@pytest.fixture
async def runtime() -> LocalRuntime:
    return LocalRuntime()


@pytest.fixture
async def manager(runtime: LocalRuntime) -> AsyncIterator[ManagerClient]:
    async with runtime as client:
        yield client


async def test_the_types_of_a_removed_app_are_free(manager: Any) -> None:
    await manager.deploy(App("first", [Counter]))
    another = renamed("counter")
    with pytest.raises(ConfigurationError, match="agentray remove first") as caught:
        await manager.deploy(App("second", [another]))
    assert "already has an agent type 'counter'" in str(caught.value)
    await manager.stop("first")
    with pytest.raises(ConfigurationError, match=r"'first' \(stopped\).*agentray remove first"):
        await manager.deploy(App("second", [another]))

    await manager.remove_app("first")
    assert [app["name"] for app in (await manager.status())["apps"]] == []
    with pytest.raises(UnknownAgentType):
        await manager.handle(Counter, "a").add()
    assert await manager.deploy(App("second", [another])) == "added"
    assert await manager.handle(another, "a").what() == "another"


@pytest.mark.parametrize("delete_states", [False, True])
async def test_states_stay_unless_they_are_to_go(manager: Any, delete_states: bool) -> None:
    await manager.deploy(App("first", [Counter]))
    counter = manager.handle(Counter, "a")
    assert [await counter.add(), await counter.add()] == [1, 2]
    await manager.remove_app("first", delete_states=delete_states)
    assert await manager.deploy(App("second", [Counter])) == "added"
    assert await counter.add() == (1 if delete_states else 3)


async def test_no_host_has_its_code_any_more(manager: Any, runtime: LocalRuntime) -> None:
    await manager.deploy(App("first", [Counter]))
    await manager.deploy(App("stays", [Other]))
    before = set(runtime.hosts)
    await manager.remove_app("first")
    hosts = (await manager.status())["hosts"]
    live = [host for host in hosts if host["id"] not in before]
    assert len(live) >= 2
    assert await manager.handle(Other, "a").work() == "done"


async def test_other_apps_notice_nothing(manager: Any) -> None:
    await manager.deploy(App("first", [Counter]))
    await manager.deploy(App("stays", [Other]))
    await manager.handle(Counter, "a").add()
    working = [asyncio.create_task(manager.handle(Other, str(n)).work(0.3)) for n in range(20)]
    await asyncio.sleep(0)
    await manager.remove_app("first")
    assert await asyncio.gather(*working) == ["done"] * 20


async def test_what_is_said_of_its_agents_goes_with_it(manager: Any, runtime: LocalRuntime) -> None:
    await manager.deploy(App("first", [Counter, Listener, Standing]))
    await manager.launch(Counter, name="a")
    await manager.subscribe(Listener, "orders")
    assert await manager.handle(Standing, "s").hello() == "hello"
    await manager.remove_app("first")
    assert await manager.find(type="counter") == []
    assert await manager.subscriptions() == []
    assert await manager.agents() == []
    await runtime.restart_manager()
    assert await manager.subscriptions() == []
    await manager.deploy(App("second", [Counter, Listener, Standing]))
    assert await manager.find(type="counter") == []
    assert await manager.agents() == []  # the permanent one is not brought back


async def test_its_pools_go_with_it(manager: Any) -> None:
    app = App("first", [OnOwn, Alone], pools=[Pool("own"), Pool("alone", isolation="actor")])
    await manager.deploy(app)
    assert await manager.handle(OnOwn, "a").hello() == "hello"
    assert await manager.handle(Alone, "a").hello() == "hello"
    await manager.remove_app("first")
    assert [pool["name"] for pool in await manager.pools()] == ["default"]
    assert {host["pool"] for host in (await manager.status())["hosts"]} == {"default"}
    await manager.deploy(App("second", [OnOwn, Alone], pools=app.pools))
    assert await manager.handle(OnOwn, "a").hello() == "hello"
    assert await manager.handle(Alone, "a").hello() == "hello"


async def test_a_pool_that_others_live_in_keeps_its_app(manager: Any) -> None:
    await manager.deploy(App("first", [Counter], pools=[Pool("own")]))
    await manager.deploy(App("guest", [OnOwn], pools=["own"]))
    with pytest.raises(ConfigurationError, match=r"agents of 'guest' live.*add_pool\('own'\)"):
        await manager.remove_app("first")
    assert await manager.handle(Counter, "a").add() == 1  # nothing was stopped
    await manager.add_pool("own")
    await manager.remove_app("first")
    assert await manager.handle(OnOwn, "a").hello() == "hello"


async def test_an_app_that_nobody_knows_cannot_be_removed(manager: Any) -> None:
    await manager.deploy(App("first", [Counter]))
    with pytest.raises(ConfigurationError, match=r"no app 'second'\. Deployed: first"):
        await manager.remove_app("second")


async def test_a_removal_that_fails_leaves_a_stopped_app(
    manager: Any, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.deploy(App("first", [Counter]))
    await manager.deploy(App("stays", [Other]))
    assert await manager.handle(Counter, "a").add() == 1

    async def refuse(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(runtime.store, "delete_app", refuse)
        with pytest.raises(OSError, match="disk is full"):
            await manager.remove_app("first")
    apps = (await manager.status())["apps"]
    assert [(app["name"], app["status"]) for app in apps] == [
        ("first", "stopped"),
        ("stays", "running"),
    ]
    assert await manager.deploy(App("first", [Counter])) == "started"
    assert await manager.handle(Counter, "a").add() == 2


async def test_a_removal_in_whose_midst_the_manager_dies_can_be_done_again(
    manager: Any, runtime: LocalRuntime
) -> None:
    await manager.deploy(App("first", [Counter]))
    await manager.handle(Counter, "a").add()
    removal = asyncio.create_task(runtime.manager.remove_app("first", delete_states=True))

    async def hidden() -> bool:
        return not runtime.manager.status()["apps"]

    await eventually_async(hidden, interval_s=0.001)
    removal.cancel()
    await asyncio.wait([removal])
    await runtime.restart_manager()
    assert [app["status"] for app in (await manager.status())["apps"]] == ["stopped"]
    await manager.remove_app("first", delete_states=True)
    assert (await manager.status())["apps"] == []
    assert await runtime.store.list_states("counter") == []


async def test_hosts_that_wait_for_room_cannot_write_what_was_deleted() -> None:
    runtime = LocalRuntime(resources={"GPU": 1.0})

    class OnGpu(Counter):
        options = AgentOptions(pool="gpu", name="on_gpu")

    async with runtime as manager:
        untyped: Any = manager
        await manager.add_pool("gpu", num_gpus=1.0)
        await manager.deploy(App("first", [OnGpu], pools=["gpu"]))
        assert await untyped.handle(OnGpu, "a").add() == 1
        await manager.remove_app("first", delete_states=True)
        assert await runtime.store.list_states("on_gpu") == []
        await manager.deploy(App("second", [OnGpu], pools=["gpu"]))
        assert await untyped.handle(OnGpu, "a").add() == 1


async def test_apps_share_an_agent_type_that_one_of_them_has(manager: Any) -> None:
    await manager.deploy(App("first", [DurableMemory]))
    await manager.deploy(App("second", [Other]))
    await manager.handle(Other, "a").remember(5)
    assert await Memory(manager, "team", DurableMemory).get("n") == 5

    class TeamMemory(DurableMemory):
        """A memory of its own."""

    await manager.deploy(App("third", [TeamMemory]))
    own = Memory(manager, "team", TeamMemory)
    assert await own.get("n") is None
    await own.put("n", 6)
    assert await Memory(manager, "team", DurableMemory).get("n") == 5


async def test_the_launch_of_an_agent_is_no_obstacle_later(manager: Any) -> None:
    await manager.deploy(App("first", [Counter]))
    counter = await manager.launch(Counter, name="a")
    await manager.shutdown(counter)
    await manager.remove_app("first")
    await manager.deploy(App("second", [Counter]))
    assert await counter.add() == 1
    launched = await manager.launch(Counter, name="b")
    (found,) = await manager.find(type=Counter)
    assert (found.handle, found.status) == (launched, AgentStatus.RUNNING)
