"""Agents that wait for each other while they have to leave their host."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from agentray import Agent, App, ManagerClient, action
from agentray.testing import LocalRuntime, run


class Seen(BaseModel):
    calls: int = 0


class Outer(Agent):
    state: Seen

    @action
    async def work(self, pause_s: float) -> str:
        self.state.calls += 1
        await asyncio.sleep(pause_s)
        return await self.handle(Inner, self.id.key).back(pause_s)

    @action
    async def answer(self) -> str:
        return f"outer, call {self.state.calls}"


class Inner(Agent):
    @action
    async def back(self, pause_s: float) -> str:
        await asyncio.sleep(pause_s)
        return await self.handle(Outer, self.id.key).answer()


async def calls_during(manager: ManagerClient, elapsed_s: float) -> tuple[list[str], float]:
    calls = [asyncio.create_task(manager.handle(Outer, str(key)).work(0.5)) for key in range(16)]
    await asyncio.sleep(elapsed_s)
    begun = asyncio.get_running_loop().time()
    await manager.set_default_pool("second")
    answers = await asyncio.gather(*calls)
    return answers, asyncio.get_running_loop().time() - begun


def test_a_call_back_into_an_agent_that_leaves_is_let_in() -> None:
    async def scenario() -> None:
        async with LocalRuntime(hosts=1) as manager:
            await manager.deploy(App("nested", [Outer, Inner]))
            await manager.add_pool("second", hosts=1)
            answers, took_s = await calls_during(manager, 0.7)  # the inner ones have begun
            assert answers == ["outer, call 1"] * 16
            assert took_s < 5.0, "nobody waited until the grace was over"
            assert await manager.handle(Outer, "0").answer() == "outer, call 1"

    run(scenario())
