"""Cancelling: it reaches the handler and all that it called; the caller hears when they ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentray import Agent, AgentOptions, App, DeadlineExceeded, ManagerClient, action
from agentray.runtime.channel import CANCEL_GRACE_S
from agentray.testing import LocalRuntime
from tests.support.virtual_time import run

story: list[str] = []


class Link(Agent):
    """One of a chain of agents that wait for each other."""

    options = AgentOptions(concurrency=None)

    @action
    async def wait(self, depth: int, cleaning_s: float = 0.0) -> None:
        story.append(f"begin {depth}")
        try:
            if depth:
                next_one = self.handle(Link, f"{self.id.key}.{depth}").with_timeout(None)
                await next_one.wait(depth - 1, cleaning_s)
            else:
                await asyncio.sleep(1000.0)
        finally:
            if cleaning_s and not depth:
                await asyncio.sleep(cleaning_s)
            story.append(f"end {depth}")


class Busy(Agent):
    @action
    async def work(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        story.append(f"worked {seconds:g}")
        return seconds


def in_a_cluster(scenario: Any, *, hosts: int = 2) -> None:
    async def whole() -> None:
        story.clear()
        runtime = LocalRuntime(hosts=hosts)
        async with runtime as manager:
            await manager.deploy(App("cancelling", [Link, Busy]))
            await scenario(manager)

    run(whole())


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("key", ["a", "b", "c"])  # their agents lie on different hosts
def test_a_cancelled_call_ends_after_every_handler_below_it_has(key: str) -> None:
    async def scenario(manager: ManagerClient) -> None:
        call = asyncio.create_task(manager.handle(Link, key).wait(3, 0.5))
        await asyncio.sleep(1.0)
        assert story == ["begin 3", "begin 2", "begin 1", "begin 0"]
        begun = now()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert story[4:] == ["end 0", "end 1", "end 2", "end 3"]
        assert now() - begun == pytest.approx(0.5, abs=0.1)

    in_a_cluster(scenario)


def test_a_handler_that_cleans_up_for_long_does_not_hold_its_caller() -> None:
    async def scenario(manager: ManagerClient) -> None:
        call = asyncio.create_task(manager.handle(Link, "a").wait(0, 100.0))
        await asyncio.sleep(1.0)
        begun = now()
        call.cancel()
        await asyncio.wait([call])
        assert now() - begun == pytest.approx(CANCEL_GRACE_S, abs=0.1)
        assert story == ["begin 0"]
        await asyncio.sleep(100.0)
        assert story == ["begin 0", "end 0"]

    in_a_cluster(scenario)


def test_a_second_cancellation_is_not_held_at_all() -> None:
    async def scenario(manager: ManagerClient) -> None:
        call = asyncio.create_task(manager.handle(Link, "a").wait(0, 100.0))
        await asyncio.sleep(1.0)
        begun = now()
        call.cancel()
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait([call])
        assert now() - begun == pytest.approx(0.1, abs=0.05)

    in_a_cluster(scenario)


def test_a_call_that_waits_in_the_mailbox_is_never_begun() -> None:
    async def scenario(manager: ManagerClient) -> None:
        busy = manager.handle(Busy, "a")
        first = asyncio.create_task(busy.work(5))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(busy.work(7))
        third = asyncio.create_task(busy.work(9))
        await asyncio.sleep(0.1)
        begun = now()
        second.cancel()
        await asyncio.wait([second])
        assert now() - begun < 0.1, "it did not wait for its turn to be cancelled"
        assert await first == 5
        assert await third == 9
        assert story == ["worked 5", "worked 9"]

    in_a_cluster(scenario)


def test_a_timeout_of_the_callers_own_cancels_the_handler() -> None:
    async def scenario(manager: ManagerClient) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await manager.handle(Link, "a").wait(2)
        assert story[-1] == "end 2"

    in_a_cluster(scenario)


def test_a_deadline_is_told_at_once_and_cancels_the_handlers_behind_it() -> None:
    async def scenario(manager: ManagerClient) -> None:
        begun = now()
        with pytest.raises(DeadlineExceeded):
            await manager.handle(Link, "a").with_timeout(3.0).wait(0, 50.0)
        assert now() - begun == pytest.approx(3.0, abs=0.1)
        await asyncio.sleep(50.5)
        assert story == ["begin 0", "end 0"]

    in_a_cluster(scenario)


def test_a_deadline_says_how_long_it_was() -> None:
    async def scenario(manager: ManagerClient) -> None:
        with pytest.raises(DeadlineExceeded, match="did not reply within 3 s") as caught:
            await manager.handle(Link, "a").with_timeout(3.0).wait(0, 50.0)
        assert caught.value.timeout_s == 3.0

    in_a_cluster(scenario)


def test_a_deadline_counts_from_when_the_message_came_not_from_its_turn() -> None:
    async def scenario(manager: ManagerClient) -> None:
        busy = manager.handle(Busy, "a")
        first = asyncio.create_task(busy.work(4))
        await asyncio.sleep(0.1)
        begun = now()
        with pytest.raises(DeadlineExceeded):
            await busy.with_timeout(5.0).work(3)
        assert now() - begun == pytest.approx(5.0, abs=0.1)
        await first

    in_a_cluster(scenario)


class Caller(Agent):
    @action
    async def wait_for(self, key: str, timeout: float) -> str:
        try:
            await self.handle(Busy, key).with_timeout(timeout).work(1)
        except DeadlineExceeded as error:
            return str(error)
        return "no deadline"


@pytest.mark.parametrize("hosts", [1, 2])  # with one, caller and target are in one process
def test_a_deadline_in_the_mailbox_is_told_as_one_wherever_the_agent_is(hosts: int) -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.deploy(App("callers", [Caller]))
        for key in map(str, range(4)):
            busy = asyncio.create_task(manager.handle(Busy, key).work(5))
            await asyncio.sleep(0.1)
            told = await manager.handle(Caller, key).wait_for(key, 0.5)
            assert f"busy/{key}.work did not reply" in told
            assert await busy == 5

    in_a_cluster(scenario, hosts=hosts)
