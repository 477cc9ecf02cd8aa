"""Events between agents of one host: counted by one scope, with the same ends and paths as ever."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, Event, TerminateEvent, on
from agentray.errors import RunFailed
from agentray.protocol.written import Written
from agentray.testing import LocalRuntime


class Passed(Event):
    left: int


class Forked(Event):
    left: int


class Done(TerminateEvent):
    hops: int


class Walker(Agent):
    """Passes an event on, each time to another instance, and ends or fails at the end."""

    @on(Passed, key="any:5", own=True)
    async def go_on(self, passed: Passed) -> Passed | Done:
        if passed.left < 0:
            raise ValueError("it was lost on the way")
        await asyncio.sleep(0)
        return Passed(left=passed.left - 1) if passed.left else Done(hops=1)


class Lost(Agent):
    """Passes on what fails two hops later, and goes on itself."""

    @on(Forked, key="any:3", own=True)
    async def fork(self, forked: Forked) -> list[Event]:
        if forked.left == 0:
            return [Passed(left=-1), Passed(left=1)]
        return [Forked(left=forked.left - 1)]


class Endless(Event):
    turn: int


class Ping(Agent):
    """Two of them answer each other for ever."""

    @on(Endless, key="any:2", own=True)
    async def answer(self, endless: Endless) -> Endless:
        await asyncio.sleep(0.001)
        return Endless(turn=endless.turn + 1)


APP = App("walk", [Walker, Lost, Ping])


async def test_a_chain_of_thousands_on_one_host_ends_with_its_result() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Passed(left=3_000), events=False, durability="none")
        assert (await run.wait()).result == {"hops": 1}


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("events", [False, True])
async def test_the_path_of_an_error_has_each_cause_on_one_host_and_on_two(
    hosts: int, events: bool
) -> None:
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Forked(left=3), events=events, durability="none")
        with pytest.raises(RunFailed) as failed:
            await run.result()
    assert [step.partition(" at ")[0] for step in failed.value.path] == [*["Forked"] * 4, "Passed"]
    assert failed.value.error_type == "ValueError"


async def test_a_run_of_one_host_that_never_ends_is_cancelled_and_leaves_nothing_behind() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Endless(turn=0), events=False, durability="none")
        await asyncio.sleep(0.1)
        assert (await run.cancel()).status == "cancelled"
        other = await manager.dispatch(Passed(left=3), events=False, durability="none")
        assert (await other.wait()).status == "succeeded"


async def test_thousands_of_runs_on_one_host_have_the_ends_of_their_own() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(APP)

        async def one(number: int) -> tuple[int, str]:
            begins = Forked(left=1) if number % 3 == 0 else Passed(left=number % 4)
            run = await manager.dispatch(begins, events=False, durability="none")
            return number, (await run.wait()).status.value

        for number, status in await asyncio.gather(*(one(n) for n in range(1_000))):
            assert status == ("failed" if number % 3 == 0 else "succeeded")


def test_json_that_is_written_is_read_when_somebody_looks() -> None:
    written = Written(lambda: '{"event":{"a":1},"timeout_s":null}')
    assert dict(written) == {"event": {"a": 1}, "timeout_s": None}
    assert written.get("session") is None
    assert len(written) == 2
