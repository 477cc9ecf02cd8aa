"""Bursts: the latest event is handled, when it is quiet or when they waited long enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar

import pytest

from agentray import (
    Agent,
    AgentId,
    App,
    ConfigurationError,
    Event,
    ManagerClient,
    Prompt,
    RunStatus,
    on,
)
from agentray.patterns import DebounceAgent, Debouncer
from agentray.testing import LocalRuntime, ManualClock, run


class Changed(Event):
    document: str
    text: str


class Saved(Event):
    document: str
    text: str


class Indexed(Event):
    text: str


class Editor(Agent):
    """Publishes what the prompt names: `a=1 2.5 b=2`: a changes, 2.5 s later b."""

    @on(Prompt)
    async def edit(self, prompt: Prompt) -> AsyncGenerator[Event]:
        for word in prompt.text.split():
            document, is_change, text = word.partition("=")
            if is_change:
                kind = Saved if text.startswith("!") else Changed
                yield kind(document=document, text=text)
            else:
                await asyncio.sleep(float(word))


class Indexer(DebounceAgent):
    events = (Changed, Saved)
    key = "field:document"
    quiet_s = 2.0
    max_wait_s = 7.0
    settled_at: ClassVar[list[tuple[float, str]]] = []

    async def settled(self, event: Changed) -> Any:
        self.settled_at.append((round(asyncio.get_running_loop().time(), 1), event.text))
        match event.text:
            case "raise":
                raise ValueError("not indexed")
            case "nonsense":
                return 42
            case "hang":
                await asyncio.Event().wait()
            case _:
                pass
        return Indexed(text=event.text)


def scenario(test: Callable[[ManagerClient, LocalRuntime], Awaitable[None]]) -> None:
    async def whole() -> None:
        Indexer.settled_at.clear()
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("index", [Editor, Indexer]))
            await test(manager, runtime)

    run(whole())


async def settled(manager: ManagerClient, prompt: str) -> list[tuple[float, str]]:
    """Return what settled, and after how many seconds."""
    Indexer.settled_at.clear()
    began = asyncio.get_running_loop().time()
    done = await manager.prompt(prompt)
    assert done.status is RunStatus.SUCCEEDED
    return [(round(at - began, 1), text) for at, text in Indexer.settled_at]


def test_the_latest_is_handled_when_it_is_quiet() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        assert await settled(manager, "a=1") == [(2.0, "1")]
        assert await settled(manager, "a=1 1 a=2 1.5 a=!3") == [(4.5, "!3")]
        assert await settled(manager, "a=1 3 a=2 1 a=3") == [(2.0, "1"), (6.0, "3")]

    scenario(test)


def test_each_key_has_bursts_of_its_own() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        assert await settled(manager, "a=1 1 b=2 1.5 a=3") == [(2.0, "1"), (3.0, "2"), (4.5, "3")]

    scenario(test)


def test_those_that_never_end_are_handled_after_the_longest_wait() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        prompt = " 1 ".join(f"a={n}" for n in range(11))
        assert await settled(manager, prompt) == [(7.0, "6"), (12.0, "10")]

    scenario(test)


@pytest.mark.parametrize(("text", "kind"), [("raise", "ValueError"), ("nonsense", "PayloadError")])
def test_what_goes_wrong_fails_the_run_and_the_next_burst_is_handled(text: str, kind: str) -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        done = await manager.prompt(f"a={text}")
        assert done.error is not None
        assert (done.status, done.error.type) == (RunStatus.FAILED, kind)
        assert await settled(manager, "a=1") == [(2.0, "1")]

    scenario(test)


def test_one_that_hangs_holds_nobody_up() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        hanging = asyncio.create_task(manager.prompt("a=hang"))
        await ManualClock().advance(3)
        assert await settled(manager, "a=1 1 a=2") == [(3.0, "2")]
        hanging.cancel()
        await asyncio.wait([hanging])

    scenario(test)


def test_when_its_host_dies_the_run_is_tried_again() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        done = asyncio.create_task(manager.prompt("a=1 1 a=2"))
        await ManualClock().advance(1.5)
        victim = runtime.host_of(AgentId("indexer", "a"))
        assert victim is not None
        await runtime.kill_host(victim)
        ended = await done
        assert (ended.status, ended.attempt > 1) == (RunStatus.SUCCEEDED, True)
        assert Indexer.settled_at[-1][1] == "2"

    scenario(test)


def test_nothing_is_left_of_it() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await asyncio.gather(*(manager.prompt(f"d{n}=1 1 d{n}=2") for n in range(50)))
        await ManualClock().advance(400)
        assert await manager.agents("indexer") == []

    scenario(test)


def test_the_helper_lets_the_last_caller_through() -> None:
    async def test() -> None:
        debouncer = Debouncer(1.0)
        callers: list[asyncio.Task[bool]] = []
        for _ in range(30):  # with no longest wait, as long as it takes
            callers.append(asyncio.create_task(debouncer.settles()))
            await asyncio.sleep(0.9)
        assert await asyncio.gather(*callers) == [False] * 29 + [True]
        # Two at the very moment at which the first one would be let through: one is.
        first = asyncio.create_task(debouncer.settles())
        await asyncio.sleep(1.0)
        assert [await debouncer.settles(), await first].count(True) >= 1
        # One that is cancelled is not waited for.
        cancelled = asyncio.create_task(debouncer.settles())
        await asyncio.sleep(0.5)
        cancelled.cancel()
        assert await debouncer.settles()

    run(test())


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"settled": Indexer.settled, "events": (Changed,), "quiet_s": 0}, "quiet_s"),
        ({"settled": Indexer.settled, "events": (Changed,), "max_wait_s": -1}, "max_wait_s"),
        ({"settled": Indexer.settled}, "Event classes"),
        ({"events": (Changed,)}, "settled"),
    ],
)
def test_it_is_checked_where_it_is_defined(members: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        type("Wrong", (DebounceAgent,), members)
