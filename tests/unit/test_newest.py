"""Asking the manager for its newest snapshot: once for many, seldom, and not for long."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, Self

import pytest

from agentray import Agent, App, Prompt, on
from agentray.errors import ManagerUnavailable, UnknownAgentType
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.newest import EVERY_S, PATIENCE_S, NewestSnapshot, up_to_date
from agentray.testing import LocalRuntime, run


class Newcomer(Agent):
    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        return prompt.text


class Manager:
    """Counts what it is asked, and answers as it is told to."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self.asked: list[float] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, method: str, *args: Any) -> Any:
        self.asked.append(asyncio.get_running_loop().time())
        snapshot: Snapshot = await getattr(self._runtime.manager, method)(*args)
        await self.gate.wait()  # it is on its way, and getting old
        if self.error is not None:
            raise self.error
        return snapshot


class Deaf:
    """A gateway's view of the agents, which hears of nothing by itself."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.manager = Manager(runtime)
        self.channel = Channel(runtime.network)
        self._newest = NewestSnapshot(self.manager, self.channel)
        self.dispatcher = ChannelDispatcher(self.channel, self._newest.wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._newest.close()
        await self.channel.close()

    async def place(self, name: str = "newcomer") -> str:
        def look() -> str:
            return str(self.dispatcher.place(name, "a", "b").agent)

        return await up_to_date(self.dispatcher, look)


def test_who_was_deployed_a_moment_ago_is_known():
    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime as manager, Deaf(runtime) as gateway:
            await manager.deploy(App("new", [Newcomer]))
            assert await gateway.place() == "newcomer/a"
            assert await gateway.place() == "newcomer/a"
            assert len(gateway.manager.asked) == 1

    run(whole())


def test_a_thousand_guesses_are_few_questions():
    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime, Deaf(runtime) as gateway:
            guesses = await asyncio.gather(
                *(gateway.place(f"guess-{n}") for n in range(1000)), return_exceptions=True
            )
            assert {type(guess) for guess in guesses} == {UnknownAgentType}
            assert len(gateway.manager.asked) == 1
            for _ in range(20):
                with pytest.raises(UnknownAgentType):
                    await gateway.place("guess")
            asked = gateway.manager.asked
            assert len(asked) == 21
            gaps = [b - a for a, b in pairwise(asked)]
            assert min(gaps) >= EVERY_S * 0.999

    run(whole())


def test_an_answer_that_was_under_way_before_does_not_count():
    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime as manager, Deaf(runtime) as gateway:
            gateway.manager.gate.clear()
            early = asyncio.create_task(gateway.place())
            await asyncio.sleep(0.1)
            await manager.deploy(App("new", [Newcomer]))
            late = asyncio.create_task(gateway.place())
            await asyncio.sleep(0.1)
            gateway.manager.gate.set()
            assert await late == "newcomer/a"
            with pytest.raises(UnknownAgentType):
                await early
            assert len(gateway.manager.asked) == 2

    run(whole())


def test_a_manager_that_is_away_or_hangs_is_not_waited_for():
    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime as manager, Deaf(runtime) as gateway:
            await manager.deploy(App("new", [Newcomer]))
            gateway.manager.error = ManagerUnavailable()
            with pytest.raises(UnknownAgentType):
                await gateway.place()
            gateway.manager.error = None
            gateway.manager.gate.clear()
            begun = asyncio.get_running_loop().time()
            with pytest.raises(UnknownAgentType):
                await gateway.place()
            assert asyncio.get_running_loop().time() - begun <= PATIENCE_S + EVERY_S
            gateway.manager.gate.set()
            assert await gateway.place() == "newcomer/a"

    run(whole())


def test_who_gives_up_takes_the_answer_from_nobody():
    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime as manager, Deaf(runtime) as gateway:
            await manager.deploy(App("new", [Newcomer]))
            gateway.manager.gate.clear()
            both = [asyncio.create_task(gateway.place()) for _ in range(2)]
            await asyncio.sleep(0.1)
            both[0].cancel()
            gateway.manager.gate.set()
            assert await both[1] == "newcomer/a"
            assert len(gateway.manager.asked) == 1

    run(whole())
