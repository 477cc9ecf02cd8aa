"""Runs that are durable per step: whatever dies, each event has one effect, the end is exact."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentId, AgentOptions, App, Event, TerminateEvent, on
from agentray.config import QUARANTINE_AFTER
from agentray.patterns import AggregatorAgent, Gathered
from agentray.protocol.runs import RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.steps import MAX_DEATHS
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async
from tests.support.virtual_time import in_virtual_time


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
        self.context.spend(tokens=1)
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
        self.context.spend(tool_calls=1)
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
    ended = await run.wait(timeout)
    assert ended.status is RunStatus.SUCCEEDED
    assert ended.usage is not None
    assert (ended.usage.tokens, ended.usage.tool_calls) == (NODES, NODES), "counted once each"


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


# Messages that no host survives


class Poison(Event):
    deadly: bool


class Drinker(Agent):
    @on(Poison, key="field:event_id")
    async def drink(self, poison: Poison) -> None:
        IDS[poison.event_id].append(self.context.idempotency_id)
        if poison.deadly:
            DEADLY.append(self)
            await asyncio.Event().wait()


IDS: defaultdict[str, list[str | None]] = defaultdict(list)
DEADLY: list[Agent] = []


class Feast(Event):
    drinks: int


class Host(Agent):
    @on(Feast)
    async def serve(self, feast: Feast) -> list[Event]:
        return [Poison(deadly=n == 0) for n in range(feast.drinks)]


@pytest.mark.parametrize("quarantine_after", [0, QUARANTINE_AFTER])
@in_virtual_time
async def test_a_message_that_kills_its_hosts_is_the_end_of_its_run_alone(quarantine_after: int):
    IDS.clear()
    async with (runtime := LocalRuntime(hosts=2, quarantine_after=quarantine_after)) as manager:
        await manager.deploy(App("feast", [Drinker, Host]))
        DEADLY.clear()
        deadly = await manager.dispatch(Feast(drinks=8), durability="step")
        kills = 0

        async def drunk_or_over() -> str:
            """Where one is about to die of it, by the hosts themselves; or that it is over."""
            if deadly.status is not RunStatus.RUNNING:
                return "over"
            hosts = runtime.network.hosts.items()
            dying = (n for n, h in hosts for agent in DEADLY if h.alive and h.runs(agent))
            return next(dying, "")

        while (victim := await eventually_async(drunk_or_over, 60, interval_s=0.01)) != "over":
            await eventually_async(lambda: _two(runtime), timeout_s=30)
            await runtime.kill_host(victim)
            kills += 1
        run = await deadly.wait(30)
        assert run.status is RunStatus.DEAD
        assert run.error is not None
        assert "hosts were lost while they handled its Poison for drinker/" in run.error.message
        # Of the first deaths of one kind nobody knows yet whose they are.
        assert kills <= (quarantine_after + 2 if quarantine_after else MAX_DEATHS + 1)
        # Beginnings count against a message, deaths against its agent: the first limit ends it.
        limits = {"HostDied", "AgentQuarantined"} if quarantine_after else {"HostDied"}
        assert run.error.type in limits
        ids = [each for of_event in IDS.values() for each in of_event]
        assert len(set(ids)) == 8, "an id for each message"
        assert all(len(set(of_event)) == 1 for of_event in IDS.values()), "the same each time"
        assert not await runtime.store.load_messages(["drinker", "host"], range(256))


# Aggregators


class Asked(Event):
    number: int


class Part(Event):
    n: int


class Both(TerminateEvent):
    total: int


class Parts(Agent):
    @on(Asked, key="field:event_id")
    async def answer(self, asked: Asked) -> list[Event]:
        return [Part(n=asked.number), Slow(number=asked.number)]


class Slow(Event):
    number: int


class Late(Agent):
    options = AgentOptions(concurrency=None)

    @on(Slow, key="field:event_id")
    async def answer(self, slow: Slow) -> Part:
        await GATE.wait()
        return Part(n=slow.number)


TWO_PARTS: dict[type[Event], int] = {Part: 2}


class Sum(AggregatorAgent):
    needs = TWO_PARTS

    async def combine(self, events: Gathered) -> Both:
        return Both(total=sum(part.n for part in events.all(Part)))


GATE = asyncio.Event()


async def test_what_an_aggregator_has_gathered_survives_its_host():
    GATE.clear()
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(App("sums", [Parts, Late, Sum]))
        runs = [
            await manager.dispatch(Asked(number=n), durability="step", events=False)
            for n in range(12)
        ]
        for _ in range(2):
            await eventually_async(lambda: _gathered(runtime), timeout_s=30)
            await runtime.kill_host(runtime.hosts[0])
            await eventually_async(lambda: _two(runtime), timeout_s=30)
        GATE.set()
        for n, run in enumerate(runs):
            assert (await run.result(Both, timeout=30)).total == 2 * n
        assert not await runtime.store.load_messages(["parts", "late", "sum"], range(256))


async def _gathered(runtime: LocalRuntime) -> bool:
    return len(await runtime.store.load_messages(["sum"], range(256))) == 12
