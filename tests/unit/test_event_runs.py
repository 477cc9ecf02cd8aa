"""Runs of events: dispatched, and ended exactly once, with a result or with the causal path."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, Event, TerminateEvent, on
from agentray.errors import PayloadError, RunFailed
from agentray.testing import LocalRuntime


class Submitted(Event):
    text: str


class Counted(Event):
    words: int


class Report(TerminateEvent):
    words: int


class Counter(Agent):
    @on(Submitted)
    async def count(self, submitted: Submitted) -> Counted:
        if submitted.text == "bad":
            raise ValueError("bad text")
        return Counted(words=len(submitted.text.split()))


class Reporter(Agent):
    @on(Counted)
    async def report(self, counted: Counted) -> Report:
        return Report(words=counted.words)


APP = App("texts", [Counter, Reporter])

durability = pytest.mark.parametrize("durable", [True, False], ids=["durable", "at_once"])


@durability
async def test_a_dispatched_event_ends_with_the_result_of_its_terminate_event(durable: bool):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="to be or not"), durable=durable)
        assert await run.result() == {"words": 4}
        assert (await run.result(Report)).words == 4
        assert run.status == "succeeded"
        assert run.error is None


@durability
async def test_an_error_in_a_branch_fails_the_run_with_its_path(durable: bool):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="bad"), durable=durable)
        with pytest.raises(RunFailed, match="bad text") as failed:
            await run.result(timeout=10)
        assert failed.value.error_type == "ValueError"
        (step,) = failed.value.path
        assert step.startswith("Submitted at counter/")
        assert (await run.wait()).status == "failed"


async def test_a_result_of_another_kind_is_refused():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="one"))

        class Other(TerminateEvent):
            letters: int

        with pytest.raises(PayloadError, match="Other"):
            await run.result(Other)


async def test_an_event_that_nobody_wants_fails_its_run():
    class Unwanted(Event):
        pass

    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Unwanted())
        with pytest.raises(RunFailed, match="NoHandler"):
            await run.result()


class Ping(Event):
    left: int


class Pong(Event):
    left: int


class Left(Agent):
    @on(Ping, key="key:l")
    async def ping(self, ping: Ping) -> Pong | Report:
        return Pong(left=ping.left - 1) if ping.left else Report(words=0)


class Right(Agent):
    @on(Pong, key="key:r")
    async def pong(self, pong: Pong) -> Ping | Report:
        return Ping(left=pong.left - 1) if pong.left else Report(words=0)


async def test_a_chain_of_thousands_of_events_ends():
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("hops", [Left, Right]))
        run = await manager.dispatch(Ping(left=3000), durable=False)
        assert (await run.result(timeout=60)) == {"words": 0}


async def test_errors_are_collected_where_that_is_wanted():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="bad"), on_error="collect")
        assert await run.result() is None
        assert run.status == "succeeded"
        assert run.error is None
        assert [error.type for error in run.errors] == ["ValueError"]


@durability
async def test_events_are_read_after_the_end(durable: bool):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="one two"), durable=durable)
        await run.wait()
        seen = [event async for event in run.events()]
        assert [type(event) for event in seen] == [Submitted, Counted, Report]
        assert {event.correlation_id for event in seen} == {run.id}


class Hanging(Agent):
    @on(Submitted)
    async def hang(self, submitted: Submitted) -> None:
        self.context.publish(Counted(words=0))
        try:
            await asyncio.Event().wait()
        finally:
            ENDED.append(submitted.text)


ENDED: list[str] = []


@durability
async def test_a_cancelled_run_ends_when_its_handlers_have(durable: bool):
    ENDED.clear()
    async with LocalRuntime() as manager:
        await manager.deploy(App("hanging", [Hanging, Reporter]))
        run = await manager.dispatch(Submitted(text="x"), durable=durable)
        ended = await run.cancel()
        assert ended.status == run.status == "cancelled"
        assert ENDED in (["x"], [])
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result()


@durability
async def test_an_endless_exchange_is_cancelled(durable: bool):
    async with LocalRuntime() as manager:
        await manager.deploy(App("hops", [Left, Right]))
        run = await manager.dispatch(Ping(left=10**9), durable=durable, events=False)
        await asyncio.sleep(0.1)
        assert (await run.cancel()).status == "cancelled"
        assert await manager.wait_idle(1)
