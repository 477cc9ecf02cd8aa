"""Runs of events: dispatched, and ended exactly once, with a result or with the causal path."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, AgentId, AgentOptions, App, Event, Prompt, TerminateEvent, action, on
from agentray.errors import (
    ConfigurationError,
    DeadlineExceeded,
    DeploymentStopped,
    PayloadError,
    RunFailed,
    UnknownRun,
)
from agentray.event_run import DurabilityName
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async
from tests.support.virtual_time import in_virtual_time


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

durabilities = pytest.mark.parametrize("durability", ["run", "step", "none"])


@durabilities
async def test_a_dispatched_event_ends_with_the_result_of_its_terminate_event(
    durability: DurabilityName,
):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="to be or not"), durability=durability)
        assert await run.result() == {"words": 4}
        report = await run.result(Report)
        assert (report.words, report.correlation_id) == (4, run.correlation_id)
        with pytest.raises(ConfigurationError, match="int"):
            await run.result(int)  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert run.status == "succeeded"
        assert run.error is None


@durabilities
async def test_an_error_in_a_branch_fails_the_run_with_its_path(durability: DurabilityName):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="bad"), durability=durability)
        with pytest.raises(RunFailed, match="bad text") as failed:
            await run.result(timeout=60)
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
        run = await manager.dispatch(Ping(left=3000), durability="none")
        assert (await run.result(timeout=60)) == {"words": 0}


async def test_errors_are_collected_where_that_is_wanted():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="bad"), on_error="collect")
        assert await run.result() is None
        assert run.status == "succeeded"
        assert run.error is None
        assert [error.type for error in run.errors] == ["ValueError"]


@durabilities
async def test_events_are_read_after_the_end(durability: DurabilityName):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="one two"), durability=durability)
        await run.wait()
        seen = [event async for event in run.events()]
        assert [type(event) for event in seen] == [Submitted, Counted, Report]
        assert {event.correlation_id for event in seen} == {run.id}


async def test_a_run_that_is_not_durable_is_kept_at_its_end():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="one two"), durability="none", events=False)
        assert await runtime.store.get_run(run.id) is None
        await run.wait()

        async def kept() -> bool:
            return await runtime.store.get_run(run.id) is not None

        await eventually_async(kept)
        stored = await runtime.store.get_run(run.id)
        assert stored is not None
        assert (stored.run.status, stored.run.result) == ("succeeded", {"words": 2})
        assert stored.input["event"]["text"] == "one two"
        with pytest.raises(ConfigurationError, match="events=True"):
            await anext(run.events())


async def test_a_host_that_stops_writes_the_rows_that_wait():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Submitted(text="one two"), durability="none")
        await run.wait()
    stored = await runtime.store.get_run(run.id)
    assert stored is not None
    assert stored.run.status == "succeeded"


class Hanging(Agent):
    @on(Submitted)
    async def hang(self, submitted: Submitted) -> None:
        self.context.publish(Counted(words=0))
        try:
            await asyncio.Event().wait()
        finally:
            ENDED.append(submitted.text)


ENDED: list[str] = []


@durabilities
async def test_a_cancelled_run_ends_when_its_handlers_have(durability: DurabilityName):
    ENDED.clear()
    async with LocalRuntime() as manager:
        await manager.deploy(App("hanging", [Hanging, Reporter]))
        run = await manager.dispatch(Submitted(text="x"), durability=durability)
        ended = await run.cancel()
        assert ended.status == run.status == "cancelled"
        assert ENDED in (["x"], [])
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result()


@durabilities
async def test_an_endless_exchange_is_cancelled(durability: DurabilityName):
    async with LocalRuntime() as manager:
        await manager.deploy(App("hops", [Left, Right]))
        run = await manager.dispatch(Ping(left=10**9), durability=durability, events=False)
        await asyncio.sleep(0.1)
        assert (await run.cancel()).status == "cancelled"
        assert await manager.wait_idle(1)


# TerminateEvent closes its own correlation


class Stop(Event):
    pass


class Game(Event):
    pass


class Umpire(Agent):
    """Begins an endless exchange, and ends it when it has gone on for a while."""

    @on(Game)
    async def begin(self, _: Game) -> Ping:
        return Ping(left=10**9)

    @on(Ping, key="correlation")
    async def watch(self, ping: Ping) -> Report | None:
        return Report(words=1) if ping.left < 10**9 - 100 else None


@durabilities
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_terminate_event_ends_an_endless_exchange(durability: DurabilityName, hosts: int):
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(App("hops", [Left, Right, Umpire]))
        run = await manager.dispatch(Game(), durability=durability, events=False)
        assert await run.result(timeout=60) == {"words": 1}


class Slow(Agent):
    """Publishes after its run has been terminated."""

    @on(Submitted)
    async def late(self, _: Submitted) -> list[Event]:
        return [Report(words=1), Counted(words=2)]


SEEN: list[int] = []


class Watcher(Agent):
    @on(Counted)
    async def see(self, counted: Counted) -> None:
        SEEN.append(counted.words)


@durabilities
async def test_what_comes_after_the_terminate_event_is_not_delivered(durability: DurabilityName):
    SEEN.clear()
    async with LocalRuntime() as manager:
        await manager.deploy(App("late", [Slow, Watcher]))
        run = await manager.dispatch(Submitted(text="x"), durability=durability)
        assert await run.result() == {"words": 1}
        assert SEEN == []
        assert [type(e) async for e in run.events()] == [Submitted, Report]


# Time


async def _timed_out(durability: DurabilityName) -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("hanging", [Hanging]))
        run = await manager.dispatch(Submitted(text="x"), durability=durability, timeout=5)
        started = asyncio.get_running_loop().time()
        ended = await run.wait()
        assert ended.status == "timed_out"
        assert 4.9 < asyncio.get_running_loop().time() - started < 6
        with pytest.raises(RunFailed, match="longer than 5 s"):
            await run.result()


@durabilities
def test_a_run_that_takes_too_long_is_timed_out(durability: DurabilityName):
    virtual_time.run(_timed_out(durability))


async def _deadline() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("hanging", [Hanging]))
        run = await manager.dispatch(Submitted(text="x"))
        with pytest.raises(DeadlineExceeded):
            await run.result(timeout=3)
        assert not await manager.wait_idle(1)
        assert run.status == "running"
        await run.cancel()
        assert await manager.wait_idle(1)


def test_waiting_ends_at_its_timeout_and_the_run_goes_on():
    virtual_time.run(_deadline())


# Thousands at once


class Mixed(Agent):
    options = AgentOptions(concurrency=None, mailbox=10_000)

    @on(Submitted, key="any:8")
    async def take(self, submitted: Submitted) -> Counted | Report | None:
        kind, _, number = submitted.text.partition(" ")
        if kind == "bad":
            raise ValueError(number)
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "end":
            return Report(words=int(number))
        return Counted(words=int(number)) if kind == "go" else None


@durabilities
async def test_thousands_of_runs_at_once_end_each_in_its_own_way(durability: DurabilityName):
    kinds = ("go", "end", "bad", "hang", "nothing")
    async with LocalRuntime() as manager:
        await manager.deploy(App("mixed", [Mixed, Reporter]))
        runs = await asyncio.gather(
            *(
                manager.dispatch(Submitted(text=f"{kinds[n % 5]} {n}"), durability=durability)
                for n in range(2000)
            )
        )
        ends = [runs[n].cancel() if n % 5 == 3 else runs[n].wait() for n in range(2000)]
        for n, run in enumerate(await asyncio.gather(*ends)):
            match kinds[n % 5]:
                case "go" | "end":
                    assert (run.status, run.result) == ("succeeded", {"words": n})
                case "bad":
                    assert run.error is not None
                    assert (run.status, run.error.message) == ("failed", str(n))
                case "hang":
                    assert run.status == "cancelled"
                case _:
                    assert (run.status, run.result) == ("succeeded", None)
        assert await manager.wait_idle(0)


# Hosts that die


async def test_a_durable_run_survives_the_death_of_a_host():
    STARTED.clear()
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(App("hanging", [Once, Reporter]))
        run = await manager.dispatch(Submitted(text="x"))
        await eventually_async(lambda: manager.handle(Once, "1").begun())
        host = runtime.host_of(AgentId("once", "1"))
        assert host is not None
        await runtime.kill_host(host)
        assert (await run.result(timeout=30)) == {"words": 3}
        assert (await run.wait()).attempt > 1


async def test_a_run_that_is_not_durable_ends_with_a_typed_error_when_a_host_dies():
    STARTED.clear()
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(App("hanging", [Once, Reporter]))
        run = await manager.dispatch(Submitted(text="x"), durability="none")
        await eventually_async(lambda: manager.handle(Once, "1").begun())
        host = runtime.host_of(AgentId("once", "1"))
        assert host is not None
        await runtime.kill_host(host)
        with pytest.raises(RunFailed, match="HostDied") as failed:
            await run.result(timeout=30)
        assert failed.value.error_type == "HostDied"


STARTED: list[str] = []


class Once(Agent):
    """Hangs the first time."""

    options = AgentOptions(concurrency=None)

    @on(Submitted, key="key:1")
    async def take(self, submitted: Submitted) -> Counted:
        if not STARTED:
            STARTED.append(submitted.correlation_id)
            HUNG.append(submitted.correlation_id)
        if HUNG[-1] == submitted.correlation_id:
            await asyncio.Event().wait()
        return Counted(words=3)

    @action
    async def begun(self) -> bool:
        return bool(STARTED)


HUNG: list[str] = []


# Stopping, agents that dispatch, the blocking manager


@in_virtual_time
async def test_stopping_with_draining_lets_runs_end_and_refuses_new_ones():
    async with (runtime := LocalRuntime()) as manager:
        await manager.deploy(APP)
        runs = [await manager.dispatch(Submitted(text="a b")) for _ in range(20)]
        await manager.stop("texts")
        kept = await runtime.store.list_runs()
        assert {run.status for run in kept} == {"succeeded"}, "when it returns"
        assert {(await run.wait(10)).status for run in runs} == {"succeeded"}, "who waits hears it"
        with pytest.raises(DeploymentStopped):
            await manager.dispatch(Submitted(text="a b"))
        assert await manager.deploy(APP) == "started"
        assert await (await manager.dispatch(Submitted(text="a b"))).result() == {"words": 2}


@in_virtual_time
async def test_stopping_without_draining_cancels_runs():
    async with LocalRuntime() as manager:
        app = App("hanging", [Hanging, Reporter])
        await manager.deploy(app)
        run = await manager.dispatch(Submitted(text="x"))
        await manager.stop("hanging", drain=False)
        assert (await run.wait(10)).status == "cancelled"


class Delegating(Agent):
    @on(Game)
    async def delegate(self, game: Game) -> Report:
        run = await self.dispatch(Submitted(text="a b c"))
        counted = await run.result(Report)
        assert run.correlation_id != game.correlation_id
        return Report(words=counted.words + 1)


async def test_an_agent_dispatches_a_run_of_its_own():
    async with LocalRuntime() as manager:
        await manager.deploy(App("texts", [Counter, Reporter, Delegating]))
        assert await (await manager.dispatch(Game())).result() == {"words": 4}


def test_a_program_that_does_not_await_dispatches():
    with LocalRuntime() as manager:
        manager.deploy(APP)
        run = manager.dispatch(Submitted(text="a b"))
        assert run.result(Report).words == 2
        assert [type(event) for event in run.events()] == [Submitted, Counted, Report]
        assert manager.wait_idle(10)


BEGUN: list[str] = []


class Waiting(Agent):
    @on(Prompt)
    async def wait(self, prompt: Prompt) -> None:
        BEGUN.append(prompt.text)
        await asyncio.Event().wait()


async def _begun() -> bool:
    return bool(BEGUN)


async def test_a_prompts_run_is_cancelled():
    BEGUN.clear()
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("waiting", [Waiting]))
        prompted = asyncio.create_task(manager.prompt("x"))
        await eventually_async(_begun)
        (run,) = await runtime.store.list_runs()
        assert (await manager.cancel_run(run.id)).status == "cancelled"
        assert (await prompted).status == "cancelled"
        with pytest.raises(UnknownRun):
            await manager.cancel_run("run_unknown")
