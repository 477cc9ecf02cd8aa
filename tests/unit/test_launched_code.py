"""Launching a class whose name is deployed already: with the same code, or with another."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentOptions, App, ConfigurationError, Launch, ManagerClient, action
from agentray.testing import LocalRuntime


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=2) as manager:
        yield manager


def first() -> type[Agent]:
    class Mine(Agent):
        @action
        async def version(self) -> int:
            return 1

    return Mine


def second() -> type[Agent]:
    class Mine(Agent):
        @action
        async def version(self) -> int:
            return 2

        @action
        async def only_new(self) -> str:
            return "new"

    return Mine


def typed(version: int) -> type[Agent]:
    """Return a class that has no source, as one of a console."""

    async def tell(self: Agent) -> int:
        del self
        return version

    return type("Typed", (Agent,), {"tell": action(tell), "__module__": "console"})


class Count(BaseModel):
    n: int = 0


class Base(Agent):
    @action
    async def here(self) -> bool:
        return True


class Derived(Base):
    state: Count


async def versions(manager: ManagerClient, *names: str) -> list[int]:
    return [await manager.handle("mine", name).call_by_name("version") for name in names]


async def test_a_launched_class_that_was_edited_is_deployed_again(manager: ManagerClient) -> None:
    await manager.launch(first(), name="a")
    assert await versions(manager, "a") == [1]
    b = await manager.launch(second(), name="b")
    assert await b.call_by_name("only_new") == "new"
    assert await versions(manager, "a", "b") == [2, 2]


async def test_also_as_an_instance_registered_or_in_a_batch(manager: ManagerClient) -> None:
    await manager.launch(first(), name="a")
    await manager.launch(second()(), name="b")
    assert await versions(manager, "a", "b") == [2, 2]
    await manager.register(first(), name="c")
    assert await versions(manager, "a", "c") == [1, 1]
    await manager.launch_batch([Launch(second(), name="d")])
    assert await versions(manager, "a", "d") == [2, 2]


async def test_the_same_code_is_deployed_once(
    manager: ManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = typed(1)
    for cls in (first(), Derived, console):
        await manager.launch(cls)
    monkeypatch.setattr(manager, "deploy", None)
    for cls in (first(), Derived, console):
        await manager.launch(cls)


async def test_a_class_without_a_source_is_new_whenever_it_is_another(
    manager: ManagerClient,
) -> None:
    await manager.launch(typed(1), name="a")
    await manager.launch(typed(2), name="b")
    assert await manager.handle("typed", "a").call_by_name("tell") == 2


async def test_a_class_of_an_app_with_other_code_is_refused(manager: ManagerClient) -> None:
    await manager.deploy(App("shop", [first()]))
    await manager.launch(first(), name="a")
    for launched in (second(), second()()):
        with pytest.raises(ConfigurationError, match=r"app 'shop' .*class Mine of other code"):
            await manager.launch(launched, name="b")
    with pytest.raises(ConfigurationError, match="Deploy 'shop' again"):
        await manager.register(second(), name="b")
    assert await versions(manager, "a") == [1]
    await manager.deploy(App("shop", [second()]))
    await manager.launch(second(), name="b")
    assert await versions(manager, "a", "b") == [2, 2]


async def test_an_app_of_the_types_name_with_more_types_is_not_replaced(
    manager: ManagerClient,
) -> None:
    await manager.deploy(App("mine", [first(), Derived]))
    with pytest.raises(ConfigurationError, match="other code"):
        await manager.launch(second(), name="b")


def of_mailbox(room: int) -> type[Agent]:
    class Computed(Agent):
        options = AgentOptions(mailbox=room)

        @action
        async def here(self) -> bool:
            return True

    return Computed


async def test_options_that_are_computed_are_a_part_of_the_code(manager: ManagerClient) -> None:
    assert await manager.deploy(App("computed", [of_mailbox(1)])) == "added"
    assert await manager.deploy(App("computed", [of_mailbox(1)])) == "unchanged"
    assert await manager.deploy(App("computed", [of_mailbox(2)])) == "replaced"
