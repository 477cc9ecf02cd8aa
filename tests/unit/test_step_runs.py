"""Runs that are durable per step: whatever dies, each event has one effect, the end is exact."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentId, AgentOptions, App, Event, TerminateEvent, on
from agentray.protocol.runs import RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Planted(Event):
    """Grows into two of itself until it is as high as it shall be."""

    tree: str
    height: int
    place: int = 1


class Cut(Event):
    tree: str


class Felled(TerminateEvent):
    tree: str


class Count(BaseModel):
    n: int = 0


class Node(Agent):
    """Counts what it handles in its state."""

    state: Count

    @on(Planted, key=lambda planted: f"{planted.tree}-{planted.place % 7}", own=True)
    async def grow(self, planted: Planted) -> list[Event]:
        self.state.n += 1
        HANDLED[planted.tree] += 1
        await asyncio.sleep(0)
        if planted.height == 0:
            return []
        return [
            Planted(tree=planted.tree, height=planted.height - 1, place=2 * planted.place + side)
            for side in (0, 1)
        ]


class Interleaved(Agent):
    """The same, any number at once."""

    options = AgentOptions(concurrency=None)
    state: Count

    @on(Planted, key=lambda planted: f"{planted.tree}-{planted.place % 3}")
    async def grow(self, planted: Planted) -> None:
        assert planted.height >= 0
        await asyncio.sleep(0)
        self.state.n += 1


HANDLED: Counter[str] = Counter()
HEIGHT = 6
NODES = 2 ** (HEIGHT + 1) - 1
APP = App("wood", [Node, Interleaved])


async def counted(runtime: LocalRuntime, tree: str) -> Mapping[str, int]:
    """How many events the agents of a tree have counted, by type, as it is kept."""
    agents = [AgentId("node", f"{tree}-{n}") for n in range(7)]
    agents += [AgentId("interleaved", f"{tree}-{n}") for n in range(3)]
    found = await runtime.store.load_states(agents)
    total: Counter[str] = Counter()
    for agent, kept in found.items():
        total[agent.type] += kept.state["n"]
    return total


async def nothing_left(runtime: LocalRuntime) -> bool:
    """Whether no message is kept."""
    return not await runtime.store.load_messages(["node", "interleaved"], range(256))


async def grow(manager: ManagerClient, tree: str, timeout: float = 60) -> None:
    run = await manager.dispatch(Planted(tree=tree, height=HEIGHT), durability="step", events=False)
    assert (await run.wait(timeout)).status is RunStatus.SUCCEEDED


async def test_every_event_has_one_effect():
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(APP)
        await asyncio.gather(*(grow(manager, f"t{n}") for n in range(4)))
        for n in range(4):
            assert await counted(runtime, f"t{n}") == {"node": NODES, "interleaved": NODES}
        assert await nothing_left(runtime)


@pytest.mark.parametrize("seed", range(4))
async def test_hosts_that_die_at_any_moment_lose_and_repeat_nothing(seed: int):
    chance = random.Random(seed)
    HANDLED.clear()
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(APP)
        trees = [f"t{n}" for n in range(3)]
        runs = asyncio.gather(*(grow(manager, tree) for tree in trees))
        for _ in range(4):
            goal = HANDLED.total() + chance.randint(1, 60)
            while HANDLED.total() < goal and not runs.done():  # noqa: ASYNC110 - any turn may be it
                await asyncio.sleep(0)
            await runtime.kill_host(chance.choice(runtime.hosts))
            await eventually_async(lambda: _two(runtime), timeout_s=30)
        await runs
        for tree in trees:
            assert await counted(runtime, tree) == {"node": NODES, "interleaved": NODES}
        assert await nothing_left(runtime)


async def _two(runtime: LocalRuntime) -> bool:
    return len(runtime.hosts) > 1
