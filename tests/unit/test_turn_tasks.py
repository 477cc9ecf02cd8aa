"""Turns share tasks; agents must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from agentray import Agent, AgentOptions, App, ManagerClient, action
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

left_behind: ContextVar[str] = ContextVar("left_behind", default="")


class Neighbour(Agent):
    options = AgentOptions(name="neighbour")

    @action
    async def task(self) -> int:
        return id(asyncio.current_task())

    @action
    async def leave(self, text: str) -> None:
        left_behind.set(text)

    @action
    async def found(self) -> str:
        return left_behind.get()

    @action
    async def wait(self) -> None:
        await asyncio.get_running_loop().create_future()

    @action
    async def endure(self) -> int:
        """Keep a cancellation to itself."""
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return 1
        return 0

    @action
    async def mine(self) -> None:
        """Have somebody cancel its task when it is long over."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.01, task.cancel)

    @action
    async def cancelling(self) -> int:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("neighbours", [Neighbour]))
        yield manager


async def test_one_task_handles_the_messages_of_many_agents(manager: ManagerClient) -> None:
    calls = (manager.handle(Neighbour, f"{number}").task() for number in range(20))
    assert len(set(await asyncio.gather(*calls))) < 10


async def test_what_a_handler_leaves_in_its_context_stays_there(manager: ManagerClient) -> None:
    keys = [f"{number}" for number in range(20)]
    leaving = (manager.handle(Neighbour, key).leave(key) for key in keys)
    looking = (manager.handle(Neighbour, f"other-{key}").found() for key in keys)
    found = await asyncio.gather(*leaving, *looking)
    assert found[20:] == [""] * 20
    assert [await manager.handle(Neighbour, f"third-{key}").found() for key in keys] == [""] * 20


async def test_handlers_that_wait_hold_nobody_back(manager: ManagerClient) -> None:
    waiting = [
        asyncio.create_task(manager.handle(Neighbour, f"{number}").wait()) for number in range(400)
    ]

    async def all_wait() -> bool:
        counters = [await manager.handle(Neighbour, key).stats() for key in ("0", "399")]
        return all(counter["running"] == 1 for counter in counters)

    await eventually_async(all_wait)
    assert await manager.handle(Neighbour, "quick").found() == ""
    for task in waiting:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)


async def test_a_cancelled_handler_leaves_its_task_as_it_was(manager: ManagerClient) -> None:
    calls = [
        asyncio.create_task(manager.handle(Neighbour, f"{number}").endure()) for number in range(20)
    ]
    await manager.handle(Neighbour, "0").ping()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    after = (manager.handle(Neighbour, f"after-{number}").cancelling() for number in range(40))
    assert await asyncio.gather(*after) == [0] * 40


async def test_a_task_that_is_cancelled_while_it_has_nothing_to_do_holds_nobody_up(
    manager: ManagerClient,
) -> None:
    await manager.handle(Neighbour, "careless").mine()
    await asyncio.sleep(0.05)
    for number in range(5):
        asked = manager.handle(Neighbour, f"after-{number}").cancelling()
        assert await asyncio.wait_for(asked, 30) == 0


async def test_an_agent_that_is_shut_down_ends_its_own_turns_only(manager: ManagerClient) -> None:
    one = await manager.launch(Neighbour, name="one")
    other = await manager.launch(Neighbour, name="other")
    ended = asyncio.create_task(one.wait())
    stays = asyncio.create_task(other.wait())

    async def both_wait() -> bool:
        return all([(await each.stats())["running"] for each in (one, other)])

    await eventually_async(both_wait)
    await manager.shutdown(one, grace_s=0.0)
    with pytest.raises(Exception, match="one"):
        await ended
    assert not stays.done()
    stays.cancel()
