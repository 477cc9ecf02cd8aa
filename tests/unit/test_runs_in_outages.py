"""The database is away while runs are under way: those that are durable go on when it is back."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from agentray import Agent, App, Event, ManagerClient, RunStatus, TerminateEvent, action, on
from agentray.event_run import DurabilityName
from agentray.ids import AgentId
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, run
from tests.support.outage import Outage

_AWAY_S = 5.0


class Total(BaseModel):
    n: int = 0


class Asked(Event):
    way: str


class Done(TerminateEvent):
    n: int


class Adder(Agent):
    state: Total

    @action
    async def add(self) -> int:
        await asyncio.sleep(1)
        self.state.n += 1
        return self.state.n


class Changing(Agent):
    """Changes its own state, while the database is away."""

    state: Total

    @on(Asked, where=lambda asked: asked.way == "own", key="key:one")
    async def change(self, _: Asked) -> Done:
        await asyncio.sleep(1)
        self.state.n += 1
        return Done(n=self.state.n)


class Calling(Agent):
    """Has another agent change its state."""

    @on(Asked, where=lambda asked: asked.way == "other", key="key:one")
    async def call(self, _: Asked) -> Done:
        return Done(n=await self.handle(Adder, "one").add())


app = App("adding", [Adder, Changing, Calling])


async def away_for_a_while(outage: Outage) -> None:
    outage.away = True
    await asyncio.sleep(_AWAY_S)
    outage.away = False


async def begun(manager: ManagerClient, way: str, durability: DurabilityName, outage: Outage):
    under_way = await manager.dispatch(Asked(way=way), durability=durability)
    await asyncio.sleep(0.5)
    return under_way, asyncio.create_task(away_for_a_while(outage))


@pytest.mark.parametrize("durability", ["run", "step"])
@pytest.mark.parametrize("way", ["own", "other"])
def test_a_durable_run_that_cannot_keep_what_it_did_goes_on_when_the_database_is_back(
    way: str, durability: DurabilityName
) -> None:
    async def scenario() -> None:
        outage = Outage()
        async with LocalRuntime(store=outage.behind(MemoryStore())) as manager:
            await manager.deploy(app)
            under_way, away = await begun(manager, way, durability, outage)
            ended = await under_way.wait(60)
            assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, {"n": 1}), ended.error
            await away

    run(scenario())


@pytest.mark.parametrize("durability", ["run", "step"])
@pytest.mark.parametrize("way", ["own", "other"])
def test_a_host_that_dies_while_the_database_is_away_takes_no_durable_run_with_it(
    way: str, durability: DurabilityName
) -> None:
    async def scenario() -> None:
        outage = Outage()
        runtime = LocalRuntime(store=outage.behind(MemoryStore()))
        async with runtime as manager:
            await manager.deploy(app)
            under_way, away = await begun(manager, way, durability, outage)
            name = {"own": "changing", "other": "adder"}[way]
            victim = runtime.host_of(AgentId(name, "one"))
            assert victim is not None
            await runtime.kill_host(victim)
            ended = await under_way.wait(120)
            assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, {"n": 1}), ended.error
            await away

    run(scenario())
