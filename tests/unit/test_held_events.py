"""Events leave with the success of their handler: what fails leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from agentray import Agent, App, Event, Prompt, TerminateEvent, action, loop, on
from agentray.errors import DeadlineExceeded, PayloadError, StateRefused
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Asked(Event):
    how: str = ""


class Told(Event):
    by: str


class Answer(TerminateEvent):
    of: Any = None


class Count(BaseModel):
    n: Any = 0


class Heard(Agent):
    told: ClassVar[list[str]] = []

    @on(Told, key="key:h")
    async def hear(self, told: Told) -> None:
        self.told.append(told.by)


class Stateless(Agent):
    @on(Asked, Prompt)
    async def ask(self, asked: Asked | Prompt) -> list[Any] | None:
        return await self.do(asked.how if isinstance(asked, Asked) else asked.text)

    @action
    async def do(self, how: str) -> list[Any] | None:
        self.context.publish(Told(by="first"))
        match how:
            case "raises":
                raise ValueError("after publishing")
            case "hangs":
                await asyncio.Event().wait()
            case "at once":
                self.context.publish(Told(by="at once"), at_once=True)
                raise ValueError("after publishing")
            case "no JSON":
                self.context.publish(Answer(of=object()))
            case "no event":
                self.context.publish("an event")  # type: ignore[arg-type]
            case "returns":
                return [Told(by="second"), Told(by="third")]
            case _:
                return [Told(by="second"), how]
        return None


class Stateful(Stateless):
    state: Count

    @action
    async def do(self, how: str) -> list[Any] | None:
        self.state.n = object() if how == "too much" else self.state.n + 1
        return await super().do(how)

    @action
    async def count(self) -> int:
        return self.state.n


class Yields(Agent):
    @on(Asked)
    async def ask(self, asked: Asked) -> AsyncGenerator[Told]:
        yield Told(by="yielded")
        self.context.publish(Told(by="published"))
        raise ValueError(asked.how)


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    Heard.told.clear()


@pytest.fixture(params=[Stateless, Stateful])
async def manager(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with asyncio.timeout(180), LocalRuntime(hosts=2) as manager:
        await manager.deploy(App("a", [request.param, Heard], entry=request.param))
        yield manager, request.param


FAILS = [
    ("raises", ValueError),
    ("nonsense", None),
    ("no JSON", PayloadError),
    ("no event", PayloadError),
]


@pytest.mark.parametrize(("how", "error"), FAILS)
async def test_a_handler_that_fails_leaves_no_events(
    manager: Any, how: str, error: type[Exception] | None
) -> None:
    client, kind = manager
    if error is not None:  # what an action returns is no matter of events
        with pytest.raises(error):
            await client.handle(kind, "x").do(how)
    if kind is Stateful:
        assert await client.handle(kind, "x").count() == 0
    run = await client.dispatch(Asked(how=how))
    assert (await run.wait(60)).status == "failed"
    if how != "nonsense":  # a prompt may be answered with anything
        assert (await client.prompt(how)).status == "failed"
    assert await client.wait_idle(5)
    assert Heard.told == []


async def test_a_handler_that_succeeds_sends_its_events_in_their_order(manager: Any) -> None:
    client, _ = manager
    run = await client.dispatch(Asked(how="returns"))
    assert (await run.wait(60)).status == "succeeded"
    assert (await client.prompt("returns")).status == "succeeded"
    assert Heard.told == ["first", "second", "third"] * 2


async def test_a_handler_that_is_cancelled_leaves_no_events(manager: Any) -> None:
    client, kind = manager
    with pytest.raises(DeadlineExceeded):
        await client.handle(kind, "x").with_timeout(0.05).do("hangs")
    assert Heard.told == []


async def test_an_event_may_leave_at_once(manager: Any) -> None:
    client, kind = manager
    with pytest.raises(ValueError, match="after publishing"):
        await client.handle(kind, "x").do("at once")

    async def heard() -> bool:
        return Heard.told == ["at once"]

    await eventually_async(heard)


async def test_a_state_that_cannot_be_kept_holds_its_events_back() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("a", [Stateful, Heard]))
        with pytest.raises(StateRefused):
            await manager.handle(Stateful, "x").do("too much")
        assert Heard.told == []
        await manager.handle(Stateful, "x").do("returns")

        async def heard() -> bool:
            return Heard.told == ["first"]

        await eventually_async(heard)


async def test_what_is_yielded_leaves_at_once() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("a", [Yields, Heard]))
        run = await manager.dispatch(Asked(how="later"))
        assert (await run.wait(60)).status == "failed"
        assert Heard.told == ["yielded", "published"]


async def test_a_loop_publishes_at_once_outside_of_its_turns() -> None:
    class Loops(Agent):
        ended: ClassVar[asyncio.Event]

        @loop
        async def run(self) -> None:
            self.context.publish(Told(by="loop"))
            async with self.turn():
                self.context.publish(Told(by="turn"))
                await self.ended.wait()

    async with LocalRuntime() as manager:
        Loops.ended = asyncio.Event()
        await manager.deploy(App("a", [Loops, Heard]))
        await manager.launch(Loops, name="l")

        async def heard(*what: str) -> bool:
            return Heard.told == list(what)

        await eventually_async(lambda: heard("loop"))
        Loops.ended.set()
        await eventually_async(lambda: heard("loop", "turn"))
