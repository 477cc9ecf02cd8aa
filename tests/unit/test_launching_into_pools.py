"""Where launched agents live: a class that names no pool is given one when it is first launched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    Handle,
    Launch,
    ManagerClient,
    PoolPending,
    action,
)
from agentray.testing import LocalRuntime


class Trainer(Agent):
    @action
    async def here(self) -> str:
        return self.id.key


class OnGpu(Agent):
    options = AgentOptions(pool="gpu")

    @action
    async def here(self) -> str:
        return self.id.key


def edited() -> type[Agent]:
    class Edited(Agent):
        options = AgentOptions(name="trainer")

        @action
        async def here(self) -> str:
            return f"edited {self.id.key}"

    return Edited


@pytest.fixture
async def runtime() -> LocalRuntime:
    return LocalRuntime(hosts=1, resources={"CPU": 2})


@pytest.fixture
async def manager(runtime: LocalRuntime) -> AsyncIterator[ManagerClient]:
    async with runtime as manager:
        for name in ("gpu", "other"):
            await manager.add_pool(name, hosts=1)
        yield manager


async def pool_of(manager: ManagerClient, agent: Handle[Any]) -> str:
    host = (await agent.status())["host"]
    hosts = (await manager.status())["hosts"]
    return next(row["pool"] for row in hosts if row["id"] == host)


async def test_a_class_that_names_no_pool_lives_where_it_is_first_launched(
    manager: ManagerClient,
) -> None:
    ada = await manager.launch(Trainer, name="ada", pool="gpu")
    assert (await ada.here(), await pool_of(manager, ada)) == ("ada", "gpu")
    bob = await manager.launch(Trainer(), name="bob")
    assert await pool_of(manager, bob) == "gpu"
    anybody = manager.handle(Trainer, "anybody")
    assert (await anybody.here(), await pool_of(manager, anybody)) == ("anybody", "gpu")
    # Said again it is as good, also by a handle, in a batch, and as an option.
    await manager.launch(ada, pool="gpu")
    await manager.launch_batch([Launch(Trainer, name="cy", pool="gpu")])
    await manager.launch(Trainer, name="dan", options=AgentOptions(pool="gpu"))
    registered = await manager.register(Trainer, name="eve", pool="gpu")
    assert await registered.here() == "eve"


async def test_another_pool_than_that_of_its_type_is_refused(manager: ManagerClient) -> None:
    ada = await manager.launch(Trainer, name="ada", pool="gpu")
    for again in (Trainer, Trainer(), ada):
        with pytest.raises(ConfigurationError, match=r"pool 'other'.*lives in 'gpu'.*subclass"):
            await manager.launch(again, pool="other")
    with pytest.raises(ConfigurationError, match="lives in 'gpu'"):
        await manager.register(Trainer, name="new", pool="default")
    with pytest.raises(ConfigurationError, match="lives in 'gpu'"):
        await manager.launch(edited(), name="new", pool="other")  # nor does other code move it
    assert [record.id.key for record in await manager.find(type=Trainer)] == ["ada"]


async def test_what_contradicts_itself_is_refused_before_anything_is_deployed(
    manager: ManagerClient,
) -> None:
    with pytest.raises(ConfigurationError, match="'gpu' and 'other'"):
        await manager.launch(Trainer, pool="gpu", options=AgentOptions(pool="other"))
    both = [Launch(Trainer, pool="gpu"), Launch(Trainer, pool="other")]
    with pytest.raises(ConfigurationError, match="'gpu' and 'other'"):
        await manager.launch_batch(both)
    with pytest.raises(ConfigurationError, match=r"pool 'other'.*lives in 'gpu'"):
        await manager.launch(OnGpu, pool="other")
    with pytest.raises(ConfigurationError, match="there is none"):
        await manager.launch(Trainer, pool="nowhere")
    assert (await manager.status())["apps"] == []


async def test_other_code_of_a_launched_class_stays_in_its_pool(manager: ManagerClient) -> None:
    ada = await manager.launch(Trainer, name="ada", pool="gpu")
    bob = await manager.launch(edited(), name="bob")
    assert [await ada.here(), await bob.call_by_name("here")] == ["edited ada", "edited bob"]
    assert await pool_of(manager, ada) == "gpu"


async def test_it_goes_with_the_default_where_nothing_was_said(manager: ManagerClient) -> None:
    ada = await manager.launch(Trainer, name="ada")
    await manager.set_default_pool("other")
    await manager.launch(edited(), name="bob")
    assert (await ada.here(), await pool_of(manager, ada)) == ("edited ada", "other")
    await manager.set_default_pool("default")
    assert (await ada.here(), await pool_of(manager, ada)) == ("edited ada", "default")


async def test_the_successor_of_a_removed_pool_is_as_good(manager: ManagerClient) -> None:
    await manager.launch(Trainer, name="ada", pool="gpu")
    await manager.remove_pool("gpu", successor="other")
    bob = await manager.launch(Trainer, name="bob", pool="gpu")
    assert (await bob.here(), await pool_of(manager, bob)) == ("bob", "other")
    await manager.launch(Trainer, name="cy", pool="other")


async def test_a_class_may_get_a_process_for_each_agent(
    runtime: LocalRuntime, manager: ManagerClient
) -> None:
    await manager.add_pool("cells", hosts=4, isolation="actor")
    ada, bob = [await manager.launch(Trainer, name=name, pool="cells") for name in ("ada", "bob")]
    assert [await ada.here(), await bob.here()] == ["ada", "bob"]
    assert runtime.host_of(ada.id) != runtime.host_of(bob.id)


async def test_a_launch_into_a_pool_without_room_does_not_wait_for_ever(
    manager: ManagerClient,
) -> None:
    await manager.add_pool("huge", hosts=1, num_cpus=100)
    with pytest.raises(PoolPending, match="100 CPU"):
        await manager.launch(Trainer, pool="huge", timeout=0.5)


async def test_an_app_says_where_its_agents_live_whose_classes_do_not(
    manager: ManagerClient,
) -> None:
    assert await manager.deploy(App("trained", [Trainer, OnGpu], pool="other", pools=["gpu"]))
    assert await manager.deploy(App("trained", [Trainer, OnGpu], pool="other", pools=["gpu"])) == (
        "unchanged"
    )
    trainer, on_gpu = manager.handle(Trainer, "t"), manager.handle(OnGpu, "g")
    assert [await trainer.here(), await on_gpu.here()] == ["t", "g"]
    assert [await pool_of(manager, trainer), await pool_of(manager, on_gpu)] == ["other", "gpu"]
    assert await manager.deploy(App("trained", [Trainer, OnGpu], pools=["gpu"])) == "replaced"
    assert (await trainer.here(), await pool_of(manager, trainer)) == ("t", "default")
