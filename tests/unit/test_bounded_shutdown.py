"""A shutdown has a bound: what does not end after its grace is abandoned, or its host killed."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentOptions, App, Event, Handle, Pool, action, on
from agentray.errors import AgentrayError, AgentStopped
from agentray.testing import LocalRuntime
from tests.support import virtual_time


class Count(BaseModel):
    n: int = 0


class Told(Event):
    pass


class Stubborn(Agent):
    """Swallows its cancellation for so many seconds, and then replies as if nothing was."""

    state: Count
    lives: ClassVar[int] = 0

    async def on_start(self) -> None:
        type(self).lives += 1

    @action
    async def work(self, seconds: int) -> str:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self.state.n += 1
        type(self).lives += 100
        try:
            while loop.time() < end:
                try:
                    await asyncio.sleep(end - loop.time())
                except asyncio.CancelledError:
                    continue
        finally:
            type(self).lives -= 100
        return "done"

    @action
    async def count(self) -> int:
        assert type(self).lives < 100, "there are two"
        return self.state.n

    @on(Told, key="key:s")
    async def told(self, _: Told) -> None:
        await self.work(60)


@pytest.fixture(autouse=True)
def _no_lives() -> None:
    Stubborn.lives = 0


@pytest.mark.parametrize("grace_s", [0, 1, 5])
def test_a_handler_that_swallows_its_cancellation_is_abandoned_and_has_no_effects(
    grace_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with LocalRuntime() as manager:
            worker = await manager.launch(Stubborn, name="s")
            working = asyncio.create_task(worker.work(60))
            await asyncio.sleep(0.1)
            begun = loop.time()
            await manager.shutdown(worker, grace_s=grace_s)
            assert loop.time() - begun < grace_s + 1.5
            with pytest.raises(AgentStopped):
                await working
            assert loop.time() - begun < grace_s + 1.5
            assert "goes on although it was cancelled" in caplog.text
            # Its next life begins when the last one has ended, and finds the state as it was.
            await manager.launch(Stubborn, name="s", timeout=100)
            assert loop.time() - begun > 50
            assert await worker.count() == 0
            assert Stubborn.lives == 2

    virtual_time.run(scenario())


def test_a_run_of_an_abandoned_handler_ends_with_its_error() -> None:
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Stubborn]))
            run = await manager.dispatch(Told())
            await asyncio.sleep(0.1)
            await manager.shutdown("stubborn/s", grace_s=1)
            ended = await run.wait(timeout=0.5)
            assert ended.status == "failed"
            assert ended.error is not None
            assert ended.error.type == "AgentStopped"

    virtual_time.run(scenario())


def test_the_host_of_an_isolated_agent_that_does_not_answer_is_killed_after_the_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Cell(Agent):
        options = AgentOptions(pool="cells")

        @action
        async def work(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        runtime = LocalRuntime()
        async with runtime as manager:
            cells = Pool("cells", hosts=2, isolation="actor")
            await manager.deploy(App("a", [Cell], pools=[cells]))
            cell = await manager.launch(Cell, name="c")
            working = asyncio.create_task(cell.work(60))
            await asyncio.sleep(0.1)
            host = runtime.host_of(cell.id)
            assert host is not None
            runtime.cut_off(host)  # as one whose event loop is blocked
            begun = loop.time()
            await manager.shutdown(cell, grace_s=0)
            assert loop.time() - begun < 6
            with pytest.raises(AgentrayError):
                await working
            assert loop.time() - begun < 6
            with pytest.raises(AgentStopped):
                await cell.work(0)
            assert "blocks its host" in caplog.text
            await manager.launch(Cell, name="c", timeout=10)
            await cell.work(0)

    virtual_time.run(scenario())


def test_an_isolated_agent_that_blocks_its_process_ends_with_its_owner() -> None:
    class Cell(Agent):
        options = AgentOptions(pool="cells")

        @action
        async def work(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    class Boss(Agent):
        @action
        async def hire(self) -> Handle[Cell]:
            return await self.launch(Cell, name="c")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        runtime = LocalRuntime()
        async with runtime as manager:
            cells = Pool("cells", hosts=2, isolation="actor")
            await manager.deploy(App("a", [Cell, Boss], pools=[cells]))
            boss = await manager.launch(Boss, name="b")
            cell = await boss.hire()
            working = asyncio.create_task(cell.work(60))
            await asyncio.sleep(0.1)
            host = runtime.host_of(cell.id)
            assert host is not None
            runtime.cut_off(host)  # as one whose event loop is blocked
            begun = loop.time()
            await manager.shutdown(boss, grace_s=0)  # nobody but its heartbeats finds it out
            assert loop.time() - begun < 10
            with pytest.raises(AgentrayError):
                await working
            assert host not in runtime.hosts
            with pytest.raises(AgentStopped):
                await cell.work(0)

    virtual_time.run(scenario())


def test_stopping_an_app_without_draining_waits_no_longer_than_its_grace() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Stubborn]))
            await manager.dispatch(Told())
            await asyncio.sleep(0.1)
            begun = loop.time()
            await manager.stop("a", drain=False, grace_s=1)
            assert loop.time() - begun < 2

    virtual_time.run(scenario())
