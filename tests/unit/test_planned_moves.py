"""Planned moves of slots lose nothing: no call fails, no event is lost, no run is tried again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    Event,
    Handle,
    ManagerClient,
    Prompt,
    RunStatus,
    TerminateEvent,
    action,
    on,
)
from agentray.errors import StartFailed
from agentray.event_run import DurabilityName
from agentray.patterns import AggregatorAgent, Gathered
from agentray.protocol.event_runs import Recording, RunKey
from agentray.runtime.open_runs import NEWS_S
from agentray.testing import LocalRuntime
from agentray.testing import run as run_virtual


class Asked(Event):
    number: int


class Halved(Event):
    value: int


class Doubled(Event):
    value: int


class Answer(TerminateEvent):
    halved: int
    doubled: int


class Noted(Event):
    number: int


class Count(BaseModel):
    n: int = 0


class Tally(Agent):
    """Counts in its state what it is told."""

    state: Count

    @action
    async def add(self) -> int:
        await asyncio.sleep(0.02)
        self.state.n += 1
        return self.state.n

    @on(Noted, key="any:8")
    async def noted(self, noted: Noted) -> None:
        del noted
        await asyncio.sleep(0.01)
        self.state.n += 1

    @action
    async def total(self) -> int:
        return self.state.n


class Halver(Agent):
    options = AgentOptions(concurrency=None)

    @on(Asked, key="any:16")
    async def halve(self, asked: Asked) -> Halved:
        await asyncio.sleep(0.05)
        return Halved(value=asked.number // 2)


class Doubler(Agent):
    options = AgentOptions(concurrency=None)

    @on(Asked, key="any:16")
    async def double(self, asked: Asked) -> Doubled:
        await asyncio.sleep(0.4)
        return Doubled(value=asked.number * 2)


class Joiner(AggregatorAgent):
    """Holds half of a run in its memory, acknowledged, for a third of a second."""

    needs = (Halved, Doubled)

    async def combine(self, events: Gathered) -> Answer:
        return Answer(halved=events[Halved].value, doubled=events[Doubled].value)


class Desk(Agent):
    """Takes prompts, and sets off what ends them."""

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Asked:
        return Asked(number=int(prompt.text))


class Nested(Agent):
    @action
    async def outer(self) -> int:
        await asyncio.sleep(0.02)
        return await self.handle(Tally, f"of-{self.id.key}").add()


class Extra(Agent):
    """Comes and goes with the code."""


AGENTS: list[type[Agent]] = [Tally, Halver, Doubler, Joiner, Desk, Nested]
APP = App("moves", AGENTS, entry=Desk)
Move = Callable[[ManagerClient, LocalRuntime, int], Awaitable[Any]]


class Load:
    """Calls, prompts and runs of events without a pause, until it is told to end."""

    def __init__(self, manager: ManagerClient) -> None:
        self.manager = manager
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._ended = False
        self._numbers = iter(range(1_000_000))

    async def during(self, work: Awaitable[Any]) -> None:
        """Load the cluster while something else is done."""
        kinds = [self.calls(key) for key in range(4)]
        kinds += [self.nested(key) for key in range(2)]
        kinds += [self.prompts() for _ in range(2)]
        kinds += [self.runs(durability) for durability in ("run", "step", "none")]
        kinds += [self.notes()]
        tasks = [asyncio.create_task(kind) for kind in kinds]
        try:
            await work
        finally:
            self._ended = True
            await asyncio.wait_for(asyncio.gather(*tasks), 120)

    async def calls(self, key: int) -> None:
        tally: Handle[Any] = self.manager.handle(Tally, f"called-{key}")
        expected = 0
        while not self._ended:
            expected += 1
            if (counted := await tally.add()) != expected:
                self.problems.append(f"call {expected} of {key} counted {counted}")
            self.done["call"] += 1

    async def nested(self, key: int) -> None:
        expected = 0
        while not self._ended:
            expected += 1
            if (counted := await self.manager.handle(Nested, str(key)).outer()) != expected:
                self.problems.append(f"nested call {expected} of {key} counted {counted}")
            self.done["nested call"] += 1

    async def prompts(self) -> None:
        while not self._ended:
            number = next(self._numbers)
            self.check("prompt", number, await self.manager.prompt(str(number)))

    async def runs(self, durability: DurabilityName) -> None:
        while not self._ended:
            number = next(self._numbers)
            run = await self.manager.dispatch(Asked(number=number), durability=durability)
            self.check(f"run, {durability}", number, await run.wait())

    async def notes(self) -> None:
        """Runs without an answer: nothing shows whether they came to what they should."""
        while not self._ended:
            run = await self.manager.dispatch(Noted(number=0))
            ended = await run.wait()
            if ended.status is not RunStatus.SUCCEEDED or ended.attempt != 1:
                self.problems.append(f"note: {ended.status} {ended.error} {ended.attempt}")
            self.done["note"] += 1

    def check(self, kind: str, number: int, run: Any) -> None:
        self.done[kind] += 1
        wanted = {"halved": number // 2, "doubled": number * 2}
        if run.status is not RunStatus.SUCCEEDED or run.result != wanted or run.attempt != 1:
            self.problems.append(f"{kind} {number}: {run.status} {run.error} {run.attempt}")


async def resize(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    del runtime
    await manager.add_pool("default", hosts=(1, 4, 2, 3)[number % 4])


async def drain_a_host(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    hosts = sorted(runtime.hosts)
    victim = hosts[number % len(hosts)]
    told = await manager.drain_host(victim)
    assert told == {"host": victim, "drained": True, "waiting": ""}
    assert victim not in runtime.hosts
    assert len(runtime.hosts) == len(hosts), "a fresh one is there instead"


async def scale(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    wanted = (5, 1, 4, 2, 3, None)[number % 6]
    pool = await manager.scale_pool("default", wanted)
    assert (pool["hosts"], pool["scaled_to"]) == (wanted or 3, wanted)
    assert len(runtime.hosts) == (wanted or 3)


async def move_by_hand(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    hosts = sorted(runtime.hosts)
    target = hosts[number % len(hosts)]
    told = await manager.move_slots(range(0, 256, 3), target)
    assert told == {"pool": "default", "host": target, "waiting": []}
    slots = [lease.host for lease in await runtime.store.list_slots("default")]
    assert set(slots[::3]) == {target}
    await manager.move_agent(f"tally/called-{number}", target)
    assert runtime.host_of(AgentId("tally", f"called-{number}")) == target
    if number % 2:
        assert await manager.balance_pool("default") >= 86


async def drain_a_node(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    node = runtime.nodes[number % len(runtime.nodes)]
    told = await manager.drain_node(node)
    assert told == {"node": node, "drained": True, "hosts": [], "waiting": ""}
    status = {row["id"]: row["status"] for row in await manager.nodes()}
    assert status.pop(node) == "drained"
    assert set(status.values()) == {"active"}
    await manager.undrain_node(node)
    assert {row["status"] for row in await manager.nodes()} == {"active"}


def healthy() -> bool:
    return True


async def also_healthy() -> None:
    await asyncio.sleep(0.01)


def ill() -> None:
    raise RuntimeError("the new model file is missing")


async def upgrade(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    before = set(runtime.hosts)
    agents = AGENTS if number % 2 else [*AGENTS, Extra]
    app = App("moves", agents, entry=Desk, health=(healthy, also_healthy)[number % 2])
    assert await manager.deploy(app) == "replaced"
    await asyncio.sleep(5.0)
    assert not before & set(runtime.hosts), "all of them have new code"


async def take_back(manager: ManagerClient, runtime: LocalRuntime, number: int) -> None:
    del number
    before = set(runtime.hosts)
    with pytest.raises(StartFailed, match=r"not healthy.*RuntimeError: the new model file"):
        await manager.deploy(App("moves", AGENTS, entry=Desk, health=ill))
    assert before <= set(runtime.hosts), "the old hosts have stayed"
    leases = await runtime.store.list_slots("default")
    assert {lease.host for lease in leases} == before
    await asyncio.sleep(5.0)
    assert set(runtime.hosts) == before, "those with the new code are gone"
    (row,) = await manager.pools()
    assert (row["status"], row["rollout"]) == ("live", None)


# Each as often as it takes to see all its kinds: the load makes every second of it dear.
MOVES: dict[str, tuple[Move, int]] = {
    "upgrade": (upgrade, 2),
    "take back": (take_back, 2),
    "resize": (resize, 4),
    "drain a host": (drain_a_host, 3),
    "scale": (scale, 6),
    "move by hand": (move_by_hand, 4),
    "drain a node": (drain_a_node, 2),
}


@pytest.mark.parametrize("name", MOVES)
def test_no_work_under_way_is_lost_or_tried_again(name: str) -> None:
    move, times = MOVES[name]

    async def scenario() -> None:
        runtime = LocalRuntime(hosts=3, nodes=["a", "b"])
        async with runtime as manager:
            await manager.deploy(APP)
            load = Load(manager)

            async def moves() -> None:
                await asyncio.sleep(1.0)
                for number in range(times):
                    await move(manager, runtime, number)
                    await asyncio.sleep(1.5)

            await load.during(moves())
            assert load.problems == []
            assert set(load.done) >= {"call", "nested call", "prompt", "note", "run, step"}
            notes = sum([await manager.handle(Tally, str(n)).total() for n in range(8)])
            assert notes == load.done["note"], "each event was handled once"

    run_virtual(scenario())


def test_a_run_of_a_host_that_is_newer_than_the_snapshot_keeps_its_slots_here() -> None:
    async def scenario() -> None:
        async with (runtime := LocalRuntime(hosts=2)) as manager:
            await manager.deploy(App("tallies", [Tally]))
            tally = manager.handle(Tally, "t")
            await tally.add()
            [host] = [h for h in runtime.running if h.host_id == runtime.host_of(tally.id)]
            slot = host.lease_of(tally.id)[1]
            # An event of such a run was handled here before anybody has told of its host.
            run = RunKey(Recording.TRACE, "host_new", "run_1#1", time.time_ns() // 1000)
            host.parts.taken.note(str(run), tally.id)
            begun = host.now()
            assert await host.release("default", [slot], grace_s=60.0) == []
            assert await host.release("default", [slot], grace_s=60.0) == [], "it may be under way"
            left: list[int] = []
            while not left:
                left = await host.release("default", [slot], grace_s=60.0)
            assert NEWS_S <= host.now() - begun < NEWS_S + 5, "nobody is there of whom nobody hears"

    run_virtual(scenario())
