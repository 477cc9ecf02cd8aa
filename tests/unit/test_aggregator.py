"""Aggregators: once all parts are there, in whatever order, once."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Iterator

import pytest

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    Event,
    ManagerClient,
    Prompt,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.patterns import AggregatorAgent, BranchFailed, Gathered
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Red(Event):
    text: str


class Green(Event):
    text: str


class Blue(Event):
    text: str


class DarkBlue(Blue):
    """A subclass of a needed type is another type."""


class Mixed(TerminateEvent):
    text: str


class Afterthought(Event):
    """Makes the painter send something more, after the combination."""


COLOURS: dict[str, type[Red | Green | Blue]] = {
    "red": Red,
    "green": Green,
    "blue": Blue,
    "dark-blue": DarkBlue,
}


class Painter(Agent):
    """Publishes what the prompt names, in its order: `red=1 green=2 again`."""

    @on(Prompt)
    async def paint(self, prompt: Prompt) -> list[Event]:
        events: list[Event] = []
        for word in prompt.text.split():
            if word == "again":
                events.append(events[-1])
            else:
                colour, _, text = word.partition("=")
                events.append(COLOURS[colour](text=text))
        return events


class Unwanted(Agent):
    """Takes what nobody else wants, so that it is no dead letter."""

    @on(DarkBlue)
    async def take(self, _: DarkBlue) -> None:
        return None


class Mixer(AggregatorAgent):
    needs = (Red, Green, Blue)
    options = AgentOptions(idle_timeout_s=600)

    async def combine(self, events: Gathered) -> list[Event]:
        await asyncio.sleep(0)
        blue = events[Blue]
        return [Mixed(text=f"{events[Red].text}{events[Green].text}{blue.text}")]


class Part(Event):
    pass


class Other(Event):
    pass


class Broken(AggregatorAgent):
    needs = (Part, Other)
    calls = 0

    async def combine(self, events: Gathered) -> Iterator[Event]:
        type(self).calls += 1
        raise ValueError(f"cannot combine {len(list(events))} of {len(events)}")


class Splitter(Agent):
    @on(Prompt)
    async def split(self, _: Prompt) -> list[Event]:
        return [Part(), Other(), Part()]


class First(Event):
    pass


class Second(TerminateEvent):
    pass


class Pair(AggregatorAgent):
    """Needs one event, and answers with a generator of events."""

    needs = (First,)
    options = AgentOptions(idle_timeout_s=0.1)

    async def combine(self, events: Gathered) -> Iterator[Event]:
        return (Second() for _ in events)


class Forgetful(AggregatorAgent):
    """Leaves memory before its second event comes."""

    needs = (First, Part)
    options = AgentOptions(idle_timeout_s=0.1)

    async def combine(self, events: Gathered) -> None:
        raise AssertionError(f"nothing to combine: {events}")


class Starter(Agent):
    @on(Prompt)
    async def start(self, _: Prompt) -> First:
        return First()


PAINT = App("paint", [Painter, Unwanted, Mixer], entry=Painter)


@pytest.fixture
async def manager() -> AsyncGenerator[ManagerClient]:
    async with LocalRuntime(hosts=2) as client:
        yield client


@pytest.mark.parametrize("order", list(itertools.permutations(["red=1", "green=2", "blue=3"])))
async def test_any_order(manager: ManagerClient, order: tuple[str, ...]):
    await manager.deploy(PAINT)
    run = await manager.prompt(" ".join(order))
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": "123"})


async def test_conversations_do_not_mix(manager: ManagerClient):
    await manager.deploy(PAINT)
    runs = await asyncio.gather(
        *(manager.prompt(f"red={n}- green={n}- blue={n}") for n in range(50))
    )
    assert [run.result for run in runs] == [{"text": f"{n}-{n}-{n}"} for n in range(50)]


async def test_an_event_that_comes_twice_counts_once(manager: ManagerClient):
    await manager.deploy(PAINT)
    run = await manager.prompt("red=1 again again green=2")
    assert run.result is None

    status = await manager.handle(Mixer, run.correlation_id).call(Mixer.gathering)
    assert status.missing == (Blue.event_type,)
    assert status.ignored == 0


async def test_the_first_of_a_type_counts_and_later_ones_are_counted(manager: ManagerClient):
    await manager.deploy(PAINT)
    run = await manager.prompt("red=1 red=7 green=2 blue=3 blue=8")
    assert run.result == {"text": "123"}

    status = await manager.handle(Mixer, run.correlation_id).call(Mixer.gathering)
    assert status.missing == ()
    assert status.ignored == 2  # red=7 and blue=8


async def test_late_events_change_nothing(manager: ManagerClient):
    await manager.deploy(PAINT)
    run = await manager.prompt("red=1 green=2 blue=3")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": "123"})

    late = await manager.dispatch(Red(text="late", correlation_id=run.correlation_id))
    assert await late.result() is None
    status = await manager.handle(Mixer, run.correlation_id).call(Mixer.gathering)
    assert status.ignored == 1


async def test_a_subclass_does_not_count(manager: ManagerClient):
    await manager.deploy(PAINT)
    run = await manager.prompt("red=1 green=2 dark-blue=3")
    status = await manager.handle(Mixer, run.correlation_id).call(Mixer.gathering)
    assert status.missing == (Blue.event_type,)


async def test_an_error_in_combine_fails_the_run_once(manager: ManagerClient):
    Broken.calls = 0
    await manager.deploy(App("broken", [Splitter, Broken]))
    run = await manager.prompt("go")
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "cannot combine 2 of 2")
    assert run.error.agent == f"broken/{run.correlation_id}"
    assert Broken.calls == 1


async def test_a_generator_of_events_and_no_trace_when_idle(
    manager: ManagerClient, caplog: pytest.LogCaptureFixture
):
    await manager.deploy(App("pair", [Starter, Pair]))
    with caplog.at_level(logging.WARNING, "agentray.patterns"):
        runs = await asyncio.gather(*(manager.prompt("go") for _ in range(20)))
        assert [run.result for run in runs] == [{}] * 20
        await eventually_async(lambda: _none_left(manager, "pair"))
    assert caplog.records == []


async def test_half_full_it_says_what_it_waited_for(
    manager: ManagerClient, caplog: pytest.LogCaptureFixture
):
    await manager.deploy(App("forgetful", [Starter, Forgetful]))
    with caplog.at_level(logging.WARNING, "agentray.patterns"):
        run = await manager.prompt("go")
        await eventually_async(lambda: _none_left(manager, "forgetful"))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == (
        f"forgetful/{run.correlation_id} left memory while it waited for {Part.event_type}"
    )


async def _none_left(manager: ManagerClient, agent_type: str) -> bool:
    return await manager.agents(agent_type) == []


@pytest.mark.parametrize("needs", [(), (Red, Red), (Red, str)])
def test_needs_are_checked_where_the_class_is_defined(needs: tuple[type[Event], ...]):
    async def combine(self: AggregatorAgent, events: Gathered) -> None:
        del self, events

    with pytest.raises(ConfigurationError, match=r"needs|Event classes"):
        type("Wrong", (AggregatorAgent,), {"needs": needs, "combine": combine})


def test_combine_is_checked_where_the_class_is_defined():
    with pytest.raises(ConfigurationError, match="combine"):
        type("Wrong", (AggregatorAgent,), {"needs": (Red,)})


def test_a_second_handler_for_a_needed_type_is_refused():
    with pytest.raises(ConfigurationError, match="twice"):

        class Wrong(Mixer):  # pyright: ignore[reportUnusedClass]
            @on(Red)
            async def also(self, _: Red) -> None:
                return None


def test_a_subclass_may_need_other_events():
    class Narrow(Mixer):
        needs = (Red, Green)

    assert handled(Narrow) == {Red.event_type, Green.event_type}
    assert handled(Mixer) == {t.event_type for t in (Red, Green, Blue)}


def handled(aggregator: type[AggregatorAgent]) -> set[str]:
    return set(aggregator.agent_type.handlers) - {BranchFailed.event_type}
