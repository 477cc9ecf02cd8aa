"""Runs that were accepted and wait for room at their host belong to an app that is stopped, too."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, Event, RunStatus, TerminateEvent, on
from agentray.event_run import DurabilityName
from agentray.testing import LocalRuntime
from agentray.testing import run as run_virtual


class Asked(Event):
    number: int


class Told(TerminateEvent):
    number: int


class Slow(Agent):
    @on(Asked)
    async def take(self, asked: Asked) -> Told:
        await asyncio.sleep(1)
        return Told(number=asked.number)


class Endless(Agent):
    @on(Asked)
    async def take(self, asked: Asked) -> None:
        del asked
        await asyncio.Event().wait()


@pytest.mark.parametrize("durability", ["run", "step", "none"])
@pytest.mark.parametrize("drain", [True, False])
def test_those_that_wait_for_room_end_as_those_that_have_it(
    durability: DurabilityName, drain: bool
):
    async def scenario() -> None:
        async with LocalRuntime(hosts=1, max_runs=1) as manager:
            await manager.deploy(App("app", [Slow if drain else Endless]))
            runs = [
                await manager.dispatch(Asked(number=n), durability=durability) for n in range(3)
            ]
            await asyncio.sleep(0.1)  # those that nothing keeps are on their way before
            await manager.stop("app", drain=drain)
            ended = await asyncio.gather(*(run.wait(60) for run in runs))
            status = RunStatus.SUCCEEDED if drain else RunStatus.CANCELLED
            assert [run.status for run in ended] == [status] * 3, ended

    run_virtual(scenario())
