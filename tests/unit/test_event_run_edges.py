"""Runs of events at their edges: wrong options, what comes after the end, what has no JSON."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from pydantic import ConfigDict

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    Event,
    Middleware,
    PayloadError,
    RunFailed,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.errors import Incomplete
from agentray.patterns import AggregatorAgent, Gathered, StepStatus, TextStep, wait_for_events
from agentray.patterns.solver import SolutionStatus, solve
from agentray.testing import LocalRuntime, ManualClock, run


class Asked(Event):
    text: str


class Loose(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    held: Any = None


class LooseEnd(TerminateEvent):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: Any = None


class Heard(Event):
    text: str


class Odd(Agent):
    """Publishes what has no JSON form."""

    @on(Asked)
    async def odd(self, asked: Asked) -> Event:
        return LooseEnd(inner=object) if asked.text == "end" else Loose(held=object)


class Keeper(Agent):
    @on(Loose)
    async def keep(self, _: Loose) -> None:
        return None


class Stubborn(Agent):
    """Will not be cancelled, and then says something."""

    options = AgentOptions(concurrency=None)

    @on(Asked)
    async def stay(self, asked: Asked) -> Heard:
        while True:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                continue
            return Heard(text=asked.text)


class Listener(Agent):
    heard: list[str] = []  # noqa: RUF012

    @on(Heard, key="key:one")
    async def hear(self, heard: Heard) -> None:
        self.heard.append(heard.text)


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": "x"}, {"timeout": math.nan}, {"timeout": -1}, {"on_error": "bogus"}],
    ids=str,
)
async def test_wrong_options_are_told_and_nothing_is_admitted(wrong: dict[str, Any]) -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("odd", [Odd, Keeper]))
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            await manager.dispatch(Asked(text="x"), **wrong)
        with pytest.raises(ConfigurationError, match="takes an event"):
            await manager.dispatch("x")  # type: ignore[arg-type]
        assert await manager.wait_idle(timeout=0)


async def test_an_event_without_json_is_not_made_up_for_those_who_follow() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("odd", [Odd, Keeper]))
        dispatched = await manager.dispatch(Asked(text="x"))
        assert (await dispatched.wait()).status is RunStatus.SUCCEEDED
        with pytest.raises(PayloadError, match="was not kept"):
            _ = [event async for event in dispatched.events()]


async def test_an_end_without_json_fails_its_run_and_names_the_field() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("odd", [Odd, Keeper]))
        dispatched = await manager.dispatch(Asked(text="end"))
        with pytest.raises(RunFailed, match="inner") as failed:
            await dispatched.result()
        assert failed.value.error_type == "PayloadError"
        assert [type(event) async for event in dispatched.events()] == [Asked]


@pytest.mark.parametrize("hosts", [1, 3])
def test_what_will_not_be_cancelled_says_nothing_after_the_end_of_its_run(hosts: int) -> None:
    async def whole() -> None:
        Listener.heard.clear()
        async with LocalRuntime(hosts=hosts) as manager:
            await manager.deploy(App("stubborn", [Stubborn, Listener]))
            dispatched = await manager.dispatch(Asked(text="late"))
            await ManualClock().advance(1)
            assert (await dispatched.cancel()).status is RunStatus.CANCELLED
            await ManualClock().advance(60)
            assert Listener.heard == []

    run(whole())


class Slow(Middleware):
    async def on_publish(self, event: Event) -> Event:
        await asyncio.sleep(1)
        return event


def test_what_a_hook_holds_back_is_not_delivered_after_the_end_of_its_run() -> None:
    class Echo(Agent):
        @on(Asked)
        async def echo(self, asked: Asked) -> Heard:
            return Heard(text=asked.text)

    async def whole() -> None:
        Listener.heard.clear()
        async with LocalRuntime(hosts=1) as manager:
            await manager.deploy(App("slow", [Echo, Listener], middleware=[Slow()]))
            dispatched = await manager.dispatch(Asked(text="held"))
            await ManualClock().advance(0.5)
            assert (await dispatched.cancel()).status is RunStatus.CANCELLED
            await ManualClock().advance(5)
            assert Listener.heard == []

    run(whole())


class Pair(AggregatorAgent):
    needs = (Asked, Heard)
    deadline_s = 5.0

    async def combine(self, events: Gathered) -> None:
        raise AssertionError(events)


def test_who_waits_for_an_aggregator_hears_that_its_run_was_cancelled() -> None:
    async def whole() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("pairs", [Pair]))
            dispatched = await manager.dispatch(Asked(text="alone"), timeout=2)
            waiting = asyncio.create_task(
                wait_for_events(manager, Pair, dispatched.correlation_id, 100)
            )
            assert (await dispatched.wait()).status is RunStatus.TIMED_OUT
            with pytest.raises(Incomplete):
                await waiting

    run(whole())


def test_steps_that_await_nothing_end_with_their_time() -> None:
    async def whole() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        def step(problem: str, steps: Any) -> TextStep:
            del problem, steps
            return TextStep(status=StepStatus.CONTINUE, answer="")

        beside = asyncio.create_task(others())
        solution = await solve("p", step, max_steps=50, timeout=3)
        beside.cancel()
        assert solution.status is SolutionStatus.OUT_OF_STEPS
        assert turns >= 40  # the host's other agents go on between the steps

    run(whole())
