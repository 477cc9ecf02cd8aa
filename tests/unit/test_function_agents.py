"""Functions as agents, and where events end."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    Context,
    DeadlineExceeded,
    Event,
    Prompt,
    RunStatus,
    TerminateEvent,
    action,
)
from agentray.patterns import CollectorAgent, agent_of, sink_of
from agentray.testing import LocalRuntime, ManualClock, run


class Said(Event):
    text: str


class Heard(Event):
    text: str


class Shouted(TerminateEvent):
    text: str


def speak(prompt: Prompt) -> Iterator[Said]:
    """Say each word."""
    return (Said(text=word) for word in prompt.text.split())


async def hear(said: Said, context: Context) -> AsyncIterator[Heard]:
    """Hear what was said."""
    await asyncio.sleep(0.3)
    match said.text:
        case "raise":
            raise ValueError("deaf")
        case "hang":
            await asyncio.Event().wait()
        case _:
            yield Heard(text=f"{said.text} at {context.agent.type}")


def nonsense(_: Said) -> str:
    return "no event"


def shout(heard: Heard) -> Shouted:
    """Shout; it runs in a thread."""
    assert threading.current_thread() is not threading.main_thread()
    return Shouted(text=heard.text.upper())


def shouts(heard: Heard) -> Iterator[Shouted]:
    yield shout(heard)


written: list[str] = []


def write(said: Said) -> str:
    """Return something, too: it is dropped."""
    if said.text == "raise":
        raise ValueError("no paper")
    written.append(said.text)
    return said.text


async def write_later(said: Said) -> None:
    await asyncio.sleep(1)
    written.append(f"{said.text} later")


Speak = agent_of(speak, on=Prompt)
Hear = agent_of(hear, on=[Said])
Shout = agent_of(shout, on=Heard, name="shouter", blocking=True)


class Latest(CollectorAgent):
    events = (Said, Heard)
    limit = 3


class Desk(Agent):
    notes: ClassVar[list[str]] = []

    @action
    async def note(self, said: Said) -> int:
        self.notes.append(said.text)
        return len(self.notes)


def test_functions_handle_events_as_agents_do() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("voices", [Speak, Hear, Shout]))
            done = await manager.prompt("hello", timeout=60)
            assert (done.status, done.result) == (RunStatus.SUCCEEDED, {"text": "HELLO AT HEAR"})
            assert (Hear.agent_type.name, Hear.__doc__) == ("hear", "Hear what was said.")
            assert Shout.agent_type.name == "shouter"
            done = await manager.prompt("raise")
            assert done.error is not None
            assert (done.error.type, done.error.message) == ("ValueError", "deaf")

    run(test())


def test_a_function_handles_any_number_of_events_at_once() -> None:
    async def test() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("voices", [Speak, Hear, Latest]))
            began = asyncio.get_running_loop().time()
            await manager.prompt(" ".join(f"w{n}" for n in range(100)))
            assert asyncio.get_running_loop().time() - began < 0.6
            assert len(runtime.events(Heard)) == 100
            # One that hangs holds up no other.
            hanging = asyncio.create_task(manager.prompt("hang"))
            assert (await manager.prompt("one two three", timeout=5)).status is RunStatus.SUCCEEDED
            hanging.cancel()
            await asyncio.wait([hanging])

    run(test())


def test_a_function_that_returns_nonsense_fails_the_run() -> None:
    async def test() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("voices", [Speak, agent_of(nonsense, on=Said)]))
            done = await manager.prompt("hello")
            assert done.error is not None
            assert done.error.type == "PayloadError"

    run(test())


def test_generators_in_threads_and_functions_without_a_name() -> None:
    async def test() -> None:
        async with LocalRuntime() as manager:
            agents = [
                Speak,
                agent_of(functools.partial(hear), on=Said, name="partial"),
                agent_of(shouts, on=Heard, blocking=True),
            ]
            await manager.deploy(App("voices", agents))
            assert (await manager.prompt("hi")).result == {"text": "HI AT PARTIAL"}

    run(test())
    nameless: list[Any] = [functools.partial(hear), lambda _: None]  # pyright: ignore[reportUnknownLambdaType]
    for function in nameless:
        with pytest.raises(ConfigurationError, match="name="):
            agent_of(function, on=Said)
    with pytest.raises(ConfigurationError, match="Event classes"):
        agent_of(hear, on=str)  # type: ignore[arg-type]


def test_the_host_of_a_function_may_die() -> None:
    async def test() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("voices", [Speak, Hear, Shout]))
            done = asyncio.create_task(manager.prompt("hello"))
            await ManualClock().advance(0.1)
            (row,) = await manager.agents("hear")
            victim = runtime.host_of(AgentId.parse(row["agent"]))
            assert victim is not None
            await runtime.kill_host(victim)
            assert (await done).result == {"text": "HELLO AT HEAR"}

    run(test())


def test_sinks_write_one_after_the_other_and_drop_what_that_returns() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            later = sink_of(write_later, on=Said, key="any:1", options=AgentOptions(mailbox=10))
            await manager.deploy(App("voices", [Speak, sink_of(write, on=Said), later]))
            done = await manager.prompt("a b c")
            assert (done.status, done.result) == (RunStatus.SUCCEEDED, None)
            assert written == ["a", "b", "c", "a later", "b later", "c later"]
            done = await manager.prompt("raise")
            assert done.error is not None
            assert done.error.message == "no paper"

    written.clear()
    run(test())


def test_functions_and_sinks_may_want_some_events_only() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            short = sink_of(write, on=Said, where=lambda said: len(said.text) < 3)
            loud = agent_of(
                hear, on=Said, key=lambda said: said.text, where=lambda said: said.text.isupper()
            )
            await manager.deploy(App("voices", [Speak, short, loud]))
            await manager.prompt("a long b HEY")
            assert written == ["a", "b"]
            assert [row["agent"] for row in await manager.agents("hear")] == ["hear/HEY"]

    written.clear()
    run(test())


def test_a_sink_may_print_or_write_to_a_handle(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            desk = manager.handle(Desk, "front")
            agents = [
                Speak,
                Desk,
                sink_of(print, on=Said, name="printer"),
                sink_of(desk.note, on=Said, name="to_desk"),
            ]
            await manager.deploy(App("voices", agents))
            await manager.prompt("hello there")
            assert Desk.notes == ["hello", "there"]

    Desk.notes.clear()
    run(test())
    assert "text='hello'" in capsys.readouterr().out


def test_a_collector_keeps_the_latest() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("voices", [Speak, Latest]))
            latest = manager.handle(Latest, "all")
            waiting = asyncio.create_task(latest.call(Latest.wait_for, 4))
            impatient = asyncio.create_task(latest.with_timeout(1).call(Latest.wait_for, 5))
            await ManualClock().advance(2)
            with pytest.raises(DeadlineExceeded):
                await impatient
            assert not waiting.done()
            await manager.prompt("a b")
            assert texts(await latest.collected()) == ["a", "b"]
            await manager.prompt("c d")
            assert texts(await waiting) == ["b", "c", "d"]
            assert await latest.came() == 4
            assert texts(await latest.take()) == ["b", "c", "d"]
            assert await latest.collected() == []
            await manager.prompt("e")
            assert texts(await latest.collected()) == ["e"]

    run(test())


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events]


def test_a_collector_loses_what_it_has_with_its_host() -> None:
    async def test() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("voices", [Speak, Latest]))
            await manager.prompt("a b")
            victim = runtime.host_of(AgentId("latest", "all"))
            assert victim is not None
            await runtime.kill_host(victim)
            latest = manager.handle(Latest, "all")
            assert await latest.collected() == []
            await manager.prompt("c")
            assert texts(await latest.collected()) == ["c"]

    run(test())
