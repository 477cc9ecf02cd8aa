"""Agents that wait for each other while they have to leave their host."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from agentray import Agent, App, ManagerClient, action, loop
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


def test_a_call_to_an_agent_that_has_not_begun_reaches_it_while_both_leave() -> None:
    async def scenario() -> None:
        async with LocalRuntime(hosts=1) as manager:
            await manager.deploy(App("nested", [Outer, Inner]))
            await manager.add_pool("second", hosts=1)
            answers, took_s = await calls_during(manager, 0.2)  # the inner ones have not begun
            assert answers == ["outer, call 1"] * 16
            assert took_s < 5.0, "nobody waited until the grace was over"
            assert await manager.handle(Outer, "0").answer() == "outer, call 1"
            assert await manager.handle(Inner, "0").back(0.0) == "outer, call 1"

    run(scenario())


class Tally(BaseModel):
    names: list[str] = []


class Clerk(Agent):
    """Has a start, a state, a loop and an end; each of its lives ends before the next begins."""

    state: Tally

    async def on_start(self) -> None:
        await asyncio.sleep(0.1)
        lives.append(f"{self.id.key} begins")

    async def on_stop(self) -> None:
        lives.append(f"{self.id.key} ends")

    @loop
    async def tick(self) -> None:
        ticks.append(self.id.key)
        await asyncio.Event().wait()

    @action
    async def note(self, name: str) -> int:
        self.state.names.append(name)
        await asyncio.sleep(0.1)
        return len(self.state.names)


class Boss(Agent):
    @action
    async def dictate(self) -> list[int]:
        await asyncio.sleep(0.5)
        clerk = self.handle(Clerk, self.id.key)
        first = await clerk.note("first")
        await asyncio.sleep(0.3)
        await clerk.note.tell("told")
        return [first, await clerk.note("last")]


lives: list[str] = []
ticks: list[str] = []


@pytest.mark.parametrize("ends", ["the pool is left", "the code is replaced"])
def test_who_begins_so_late_lives_once_and_what_it_did_is_kept(ends: str) -> None:
    async def scenario() -> None:
        lives.clear()
        ticks.clear()
        async with LocalRuntime(hosts=1) as manager:
            await manager.deploy(App("office", [Boss, Clerk]))
            await manager.add_pool("second", hosts=1)
            calls = [asyncio.create_task(manager.handle(Boss, key).dictate()) for key in "abcdef"]
            await asyncio.sleep(0.2)
            begun = asyncio.get_running_loop().time()
            if ends == "the pool is left":
                await manager.set_default_pool("second")
                answers = await asyncio.gather(*calls)
            else:
                await manager.deploy(App("office", [Boss, Clerk, Inner]))
                answers = await asyncio.gather(*calls)
            assert answers == [[1, 3]] * 6
            assert asyncio.get_running_loop().time() - begun < 5.0
            for key in "abcdef":
                state = await manager.save_state(manager.handle(Clerk, key).id)
                assert state.state["names"] == ["first", "told", "last"]
            if ends == "the pool is left":
                assert ticks == []  # who leaves begins no loop
            for key in "abcdef":
                assert await manager.handle(Clerk, key).note("next") == 4
            for key in "abcdef":
                lived = [line for line in lives if line.startswith(key)]
                lives_of_it = [f"{key} begins", f"{key} ends", f"{key} begins"]
                if ends == "the pool is left":
                    assert lived == lives_of_it
                else:
                    # A slot that had moved already, since it had nothing to do, has one life only.
                    assert lived in (lives_of_it[:1], lives_of_it)

    run(scenario())
