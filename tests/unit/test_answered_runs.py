"""A `TerminateEvent` ends its run: what is still under way has a short time, and no more."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from agentray import Agent, AgentOptions, App, Event, Prompt, TerminateEvent, action, on
from agentray.errors import RunFailed
from agentray.event_run import DurabilityName
from agentray.patterns import AggregatorAgent, Gathered
from agentray.testing import LocalRuntime
from tests.support import virtual_time


class Asked(Event):
    pass


class First(Event):
    pass


class Second(Event):
    pass


class Answer(TerminateEvent):
    parts: int


class Patient(TerminateEvent):
    end_grace_s: ClassVar[float | None] = None


class Good(Agent):
    @on(Asked, Prompt)
    async def answer(self, _: Event) -> First:
        return First()


class Hangs(Agent):
    """Its handler takes long, and notes how it ended."""

    options = AgentOptions(concurrency=None)
    ends: ClassVar[list[str]] = []

    @on(Asked)
    @on(Prompt)
    async def answer(self, _: Event) -> Second:
        try:
            await asyncio.sleep(1000.0)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("ended")
        return Second()


class Fails(Agent):
    @on(Asked)
    async def answer(self, _: Asked) -> Second:
        raise ValueError("no answer")


class Combines(AggregatorAgent):
    needs = (First, Second)
    deadline_s = 1.0

    async def combine(self, events: Gathered) -> Answer:
        return Answer(parts=len(events))

    async def incomplete(self, events: Gathered) -> Answer:
        return Answer(parts=len(events))


@pytest.fixture(autouse=True)
def _no_ends() -> None:
    Hangs.ends.clear()


durabilities = pytest.mark.parametrize("durability", ["run", "step", "none"])


@durabilities
@pytest.mark.parametrize("hosts", [1, 3])
def test_the_deadline_of_an_aggregator_holds_against_a_branch_that_hangs(
    durability: DurabilityName, hosts: int
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with LocalRuntime(hosts=hosts) as manager:
            await manager.deploy(App("a", [Good, Hangs, Combines]))
            begun = loop.time()
            run = await manager.dispatch(Asked(), durability=durability)
            assert (await run.result(Answer)).parts == 1
            assert loop.time() - begun < 1.0 + 2.0 + 0.5
            assert Hangs.ends == ["cancelled"]
            assert await manager.wait_idle(timeout=1)

    virtual_time.run(scenario())


def test_a_prompt_that_has_its_answer_ends_too() -> None:
    class Asks(Agent):
        @on(Prompt)
        async def ask(self, _: Prompt) -> Asked:
            return Asked()

    class OnlyGood(Agent):
        @on(Asked)
        async def answer(self, _: Asked) -> First:
            return First()

    class HangsHere(Agent):
        @on(Asked)
        async def answer(self, _: Asked) -> None:
            await asyncio.sleep(1000.0)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("a", [Asks, OnlyGood, HangsHere, Combines]))
            begun = loop.time()
            run = await manager.prompt("go", agent="asks")
            assert (run.status, run.result) == ("succeeded", {"parts": 1})
            assert loop.time() - begun < 4.0

    virtual_time.run(scenario())


def test_a_deadline_of_the_run_after_its_answer_does_not_lose_it() -> None:
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Good, Hangs, Combines]))
            run = await manager.dispatch(Asked(), timeout=1.5)
            assert (await run.result(Answer)).parts == 1
            assert run.status == "succeeded"

    virtual_time.run(scenario())


def test_an_error_beside_a_branch_that_hangs_keeps_its_path() -> None:
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Good, Fails, Hangs, Combines]))
            run = await manager.dispatch(Asked())
            with pytest.raises(RunFailed, match="no answer") as failed:
                await run.result(Answer)
            (step,) = failed.value.path
            assert step.startswith("Asked at fails/")
            run = await manager.dispatch(Asked(), on_error="collect")
            assert (await run.result(Answer)).parts == 1
            assert [error.type for error in run.errors] == ["ValueError"]

    virtual_time.run(scenario())


def test_the_event_can_say_that_all_goes_on_to_its_end() -> None:
    class Ends(Agent):
        @on(First)
        async def end(self, _: First) -> Patient:
            return Patient()

    async def scenario() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Good, Hangs, Ends]))
            run = await manager.dispatch(Asked())
            await run.result()
            assert Hangs.ends == ["ended"]

    virtual_time.run(scenario())


def test_a_handler_that_will_not_be_cancelled_does_not_hold_the_result_back() -> None:
    class Stubborn(Agent):
        @on(Asked)
        async def answer(self, _: Asked) -> None:
            for _second in range(20):
                try:
                    await asyncio.sleep(1.0)
                except asyncio.CancelledError:
                    continue

        @action
        async def hello(self) -> str:
            return "hello"

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with LocalRuntime() as manager:
            await manager.deploy(App("a", [Good, Stubborn, Combines]))
            begun = loop.time()
            run = await manager.dispatch(Asked())
            assert (await run.result(Answer)).parts == 1
            assert loop.time() - begun < 5.0

    virtual_time.run(scenario())
