"""Loops, timers and hooks, as a user of agents sees them; in virtual time, so times are exact."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    ConfigurationError,
    Event,
    HostDied,
    ManagerClient,
    RestartPolicy,
    action,
    loop,
    on,
    timer,
)
from agentray.testing import LocalRuntime, ManualClock, run
from tests.support.eventually import eventually_async


class Count(BaseModel):
    ticks: int = 0
    calls: int = 0
    idle: int = 0


class Ticked(Event):
    number: int


class Diary:
    """What happened, with the time; one for each test."""

    lines: ClassVar[list[tuple[float, str]]] = []

    @classmethod
    def note(cls, text: str) -> None:
        cls.lines.append((round(asyncio.get_running_loop().time() - cls.began, 6), text))

    began: ClassVar[float] = 0.0

    @classmethod
    def clear(cls) -> None:
        cls.lines = []
        cls.began = asyncio.get_running_loop().time()

    @classmethod
    def texts(cls) -> list[str]:
        return [text for _, text in cls.lines]

    @classmethod
    def times(cls, text: str) -> list[float]:
        return [time for time, what in cls.lines if what == text]


class Ticker(Agent):
    """Counts its ticks; a message may hold its turn, a tick may be slow."""

    state: Count
    slow_s: float = 0.0

    @timer(5.0)
    async def tick(self) -> None:
        Diary.note("tick")
        self.state.ticks += 1
        self.context.publish(Ticked(number=self.state.ticks))
        assert self.context.sender is None
        await asyncio.sleep(self.slow_s)
        Diary.note("tick ends")

    @action
    async def hold(self, seconds: float) -> int:
        Diary.note("hold")
        before = self.state.ticks
        await asyncio.sleep(seconds)
        Diary.note("hold ends")
        return self.state.ticks - before

    @action
    async def be_slow(self, seconds: float) -> None:
        self.slow_s = seconds

    @action(idempotent=True)
    async def ticks(self) -> int:
        return self.state.ticks


class Listener(Agent):
    state: Count
    correlations: ClassVar[list[str | None]] = []

    @on(Ticked, key="key:one")
    async def note(self, ticked: Ticked) -> None:
        Listener.correlations.append(self.context.correlation_id)
        if ticked.number == 13:
            raise ValueError("unlucky")


class AtOnce(Agent):
    @timer(3, run_at_start=True)
    def tick(self) -> None:
        Diary.note("tick")

    @action
    async def touch(self) -> None: ...


class Looper(Agent):
    """A loop that takes a turn every second."""

    state: Count
    steps: int = 0

    async def on_start(self) -> None:
        await asyncio.sleep(1.0)
        Diary.note("started")

    @loop
    async def watch(self) -> None:
        Diary.note("loop")
        assert self.context.agent == self.id
        try:
            while True:
                await asyncio.sleep(1.0)
                async with self.turn():
                    self.state.ticks += 1
                    before = self.state.calls
                    await asyncio.sleep(0.5)
                    assert self.state.calls == before
        finally:
            await asyncio.sleep(0)
            Diary.note("loop ends")

    @action(idempotent=True)
    async def ask(self) -> int:
        self.state.calls += 1
        return self.state.ticks

    async def on_stop(self) -> None:
        Diary.note("stopped")


class Short(Agent):
    """Its loop ends by itself."""

    options = AgentOptions(idle_timeout_s=10.0)

    @loop
    async def once(self) -> None:
        await asyncio.sleep(30.0)
        Diary.note("over")

    @action
    async def touch(self) -> None: ...

    async def on_stop(self) -> None:
        Diary.note("stopped")


class Keeper(Short):
    options = AgentOptions(idle_timeout_s=10.0)

    @timer(4.0)
    async def tick(self) -> None:
        Diary.note("tick")


class Leaver(Keeper):
    options = AgentOptions(idle_timeout_s=10.0, background_keeps=False)


class Failing(Agent):
    """Its timer fails when it is told to, and so does its loop."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=2, backoff_s=1.0, max_backoff_s=9.0))
    state: Count
    failures: ClassVar[int] = 0  # still to come
    how: ClassVar[str] = "timer"

    async def on_start(self) -> None:
        Diary.note("start")

    @timer(1.0)
    async def tick(self) -> None:
        self.state.ticks += 1
        if Failing.failures and Failing.how == "timer":
            Failing.failures -= 1
            raise ValueError("no tick")

    @loop
    async def watch(self) -> None:
        await asyncio.sleep(1.0)
        if Failing.failures and Failing.how == "loop":
            Failing.failures -= 1
            raise ValueError("no loop")
        if Failing.failures and Failing.how == "turn":
            Failing.failures -= 1
            async with self.turn():
                self.state.ticks += 100
                raise ValueError("no turn")

    @action
    async def hold(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.state.ticks

    @action
    async def call_myself(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await self.handle(Failing, self.id.key).hold(0.0)

    async def on_stop(self) -> None:
        Diary.note("stop")


class Tidy(Agent):
    """Tidies up before it leaves."""

    options = AgentOptions(idle_timeout_s=10.0)
    state: Count
    takes_s: ClassVar[float] = 0.0
    fails: ClassVar[bool] = False

    async def on_idle(self) -> None:
        Diary.note("idle")
        self.state.idle += 1
        await asyncio.sleep(Tidy.takes_s)
        if Tidy.fails:
            raise ValueError("untidy")

    @action
    async def tidied(self) -> int:
        Diary.note("call")
        return self.state.idle

    async def on_stop(self) -> None:
        Diary.note("stop")
        await asyncio.sleep(5.0)


class Misused(Agent):
    """Goes the wrong ways."""

    async def _add(self) -> None:
        async with self.turn():
            raise AssertionError("it must not get here")

    @action
    async def wrong_way(self) -> None:
        self.run_async(self._add())

    @action
    async def turn_within_a_turn(self) -> None:
        await self._add()


class Threaded(Agent):
    """Loops in a thread."""

    state: Count

    @loop
    def poll(self, stop: threading.Event) -> None:
        self.run_async(self._add())
        stop.wait(60.0)
        Threaded.saw_stop = stop.is_set()

    saw_stop: ClassVar[bool] = False

    async def _add(self) -> None:
        async with self.turn():
            self.state.ticks += 1

    @action
    async def ticks(self) -> int:
        return self.state.ticks


APP = App(
    "background",
    [Ticker, Listener, AtOnce, Looper, Short, Keeper, Leaver, Failing, Tidy, Threaded, Misused],
)


@dataclass(frozen=True)
class World:
    runtime: LocalRuntime
    manager: ManagerClient
    clock: ManualClock


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def in_virtual_time(work: Scenario) -> None:
    """Run a scenario on a runtime with the app."""

    async def whole() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(APP)
            Diary.clear()
            await work(World(runtime, manager, ManualClock()))

    run(whole())


def scenario(work: Scenario) -> Callable[[], None]:
    """Make a test of a scenario."""

    def test() -> None:
        in_virtual_time(work)

    return test


async def status_of(manager: ManagerClient, agent: str) -> str | None:
    found = [row for row in await manager.agents(limit=1000) if row["agent"] == agent]
    return found[0]["status"] if found else None


# Timers


@scenario
async def test_a_timer_ticks_at_whole_periods_after_the_start(world: World) -> None:
    manager, clock = world.manager, world.clock
    ticker = manager.handle(Ticker, "a")
    assert await ticker.ticks() == 0
    await clock.advance(4.9)
    assert Diary.lines == []
    await clock.advance(0.2)
    assert await ticker.ticks() == 1
    await clock.advance(20.0)
    assert await ticker.ticks() == 5
    first, *_rest = times = Diary.times("tick")
    assert [round(time - first, 3) for time in times] == [0.0, 5.0, 10.0, 15.0, 20.0]


@scenario
async def test_a_timer_may_tick_at_once_and_need_not_be_async(world: World) -> None:
    manager, clock = world.manager, world.clock
    await manager.handle(AtOnce, "a").touch()
    await clock.advance(0.0)
    assert Diary.texts() == ["tick"]
    await clock.advance(3.1)
    assert Diary.texts() == ["tick", "tick"]


@scenario
async def test_a_tick_waits_for_the_message_under_way_and_those_that_fell_out_are_counted(
    world: World,
) -> None:
    runtime, manager, clock = world.runtime, world.manager, world.clock
    ticker = manager.handle(Ticker, "a")
    assert await ticker.hold(17.0) == 0  # three ticks were due meanwhile
    await clock.advance(0.0)
    assert Diary.texts() == ["hold", "hold ends", "tick", "tick ends"]  # one, and no pile-up
    await clock.advance(3.5)
    assert len(Diary.times("tick")) == 2  # at 20: the schedule is as it was
    assert counters(runtime, "ticker/a")["missed_ticks"] == 2


@scenario
async def test_a_slow_tick_lets_others_fall_out_and_messages_wait_for_it(world: World) -> None:
    runtime, manager, clock = world.runtime, world.manager, world.clock
    ticker = manager.handle(Ticker, "a")
    await ticker.be_slow(11.0)
    await clock.advance(5.5)
    assert await ticker.ticks() == 1
    assert Diary.texts() == ["tick", "tick ends"]  # the message came after it
    await clock.advance(5.0)  # 21.5 s or so: the tick of 20 began
    assert len(Diary.times("tick")) == 2
    assert counters(runtime, "ticker/a")["missed_ticks"] == 2


@scenario
async def test_what_a_tick_publishes_arrives_each_in_a_conversation_of_its_own(
    world: World,
) -> None:
    runtime, manager, clock = world.runtime, world.manager, world.clock
    Listener.correlations.clear()
    await manager.handle(Ticker, "a").ticks()
    await clock.advance(15.5)
    assert [event.number for event in runtime.events(Ticked)] == [1, 2, 3]
    assert len(set(Listener.correlations)) == 3
    assert None not in Listener.correlations


@scenario
async def test_what_a_tick_changed_is_committed(world: World) -> None:
    runtime, manager, clock = world.runtime, world.manager, world.clock
    ticker = manager.handle(Ticker, "a")
    await ticker.ticks()
    await clock.advance(10.5)
    await runtime.kill_host(runtime.host_of(ticker.id) or "")
    assert await ticker.ticks() == 2


def test_the_failure_of_a_subscriber_is_logged_although_nobody_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def unlucky(world: World) -> None:
        manager, clock = world.manager, world.clock
        await manager.handle(Ticker, "a").ticks()
        await clock.advance(5.0 * 13 + 1)

    in_virtual_time(unlucky)
    told = [r for r in caplog.records if vars(r).get("action") == "background_branch_failed"]
    assert [r.getMessage() for r in told] == [
        "ticker/a published or called what failed at listener/one: ValueError: unlucky"
    ]


# Loops


@scenario
async def test_a_loop_runs_beside_messages_and_changes_state_within_turns(world: World) -> None:
    runtime, manager, clock = world.runtime, world.manager, world.clock
    looper = manager.handle(Looper, "a")
    assert await looper.ask() == 0
    assert Diary.texts() == ["started", "loop"]
    await clock.advance(1.1)  # within the loop's first turn
    assert await looper.ask() == 1  # waited for its end
    await clock.advance(10.0)
    await runtime.kill_host(runtime.host_of(looper.id) or "")
    assert await looper.ask() >= 6  # committed, and loaded elsewhere


def test_a_loop_is_cancelled_and_awaited_before_on_stop() -> None:
    async def stop(world: World) -> None:
        manager, clock = world.manager, world.clock
        await manager.handle(Looper, "a").ask()
        await clock.advance(1.2)  # it holds a turn

    in_virtual_time(stop)
    assert Diary.texts() == ["started", "loop", "loop ends", "stopped"]


@scenario
async def test_a_loop_that_returns_is_over_and_its_agent_may_leave(world: World) -> None:
    manager, clock = world.manager, world.clock
    await manager.handle(Short, "a").touch()
    await clock.advance(29.0)
    assert await status_of(manager, "short/a") == "idle"  # kept by its loop
    await clock.advance(3.5)
    assert Diary.texts() == ["over", "stopped"]
    assert await status_of(manager, "short/a") is None


@scenario
async def test_a_timer_keeps_its_agent_in_memory(world: World) -> None:
    manager, clock = world.manager, world.clock
    await manager.handle(Keeper, "a").touch()
    await clock.advance(100.5)
    assert Diary.texts().count("tick") == 25
    assert await status_of(manager, "keeper/a") == "idle"


@scenario
async def test_an_agent_whose_options_say_so_leaves_in_spite_of_its_timer(world: World) -> None:
    manager, clock = world.manager, world.clock
    await manager.handle(Leaver, "a").touch()
    await clock.advance(60.0)
    assert Diary.texts() == ["tick", "tick", "stopped"]
    assert await status_of(manager, "leaver/a") is None


async def test_a_loop_in_a_thread_sees_its_end_and_works_through_the_event_loop() -> None:
    """In real time: a thread lives in no other."""
    Threaded.saw_stop = False
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        threaded = manager.handle(Threaded, "a")

        async def has_ticked() -> bool:
            return await threaded.ticks() == 1

        await eventually_async(has_ticked)
    assert Threaded.saw_stop


@scenario
async def test_wrong_uses_are_told(world: World) -> None:
    manager, clock = world.manager, world.clock
    misused = manager.handle(Misused, "a")
    await clock.advance(0.0)
    with pytest.raises(ConfigurationError, match="wait for itself"):
        await misused.wrong_way()
    with pytest.raises(ConfigurationError, match="has its turn already"):
        await misused.turn_within_a_turn()


@scenario
async def test_a_state_that_is_set_from_outside_ends_the_work_on_the_old_one(world: World) -> None:
    manager, clock = world.manager, world.clock
    looper, ticker = manager.handle(Looper, "a"), manager.handle(Ticker, "a")
    await looper.ask()
    await ticker.ticks()
    await clock.advance(1.2)  # the loop holds a turn
    await manager.load_state(looper.id, {"ticks": 100})
    assert Diary.texts() == ["started", "loop", "loop ends", "stopped"]
    await clock.advance(0.0)
    assert await looper.ask() == 100
    await manager.load_state(ticker.id, {"ticks": 50})
    assert await ticker.ticks() == 50
    await clock.advance(11.0)
    assert await ticker.ticks() == 52


# Errors of their own


@pytest.mark.parametrize("how", ["timer", "loop", "turn"])
def test_an_error_restarts_the_agent_and_its_state_is_as_it_was(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_once(world: World) -> None:
        runtime, manager, clock = world.runtime, world.manager, world.clock
        Failing.how, Failing.failures = how, 1
        failing = manager.handle(Failing, "a")
        await failing.hold(0.0)
        await clock.advance(1.05)
        assert Diary.texts() == ["start", "stop"]
        assert await status_of(manager, "failing/a") == "starting"
        ticks = await failing.hold(0.0)  # waits for the backoff
        assert ticks == (0 if how == "timer" else 1)
        assert Diary.texts() == ["start", "stop", "start"]
        assert 2.0 <= Diary.times("start")[1] <= 2.4  # 1 s and its jitter
        counted = counters(runtime, "failing/a")
        assert (counted["restarts"], counted["last_error"]) == (1, f"ValueError: no {_what(how)}")

    in_virtual_time(fail_once)
    (record,) = [r for r in caplog.records if vars(r).get("action") == "background_failed"]
    method = "tick" if how == "timer" else "watch"
    assert (vars(record)["agent"], vars(record)["method"]) == ("failing/a", method)
    assert record.exc_info is not None
    assert f"no {_what(how)}" in logging.Formatter().formatException(record.exc_info)


def _what(how: str) -> str:
    return "tick" if how == "timer" else how


@scenario
async def test_beyond_its_policy_the_agent_is_failed_with_the_last_error(world: World) -> None:
    manager, clock = world.manager, world.clock
    Failing.how, Failing.failures = "loop", 3
    failing = manager.handle(Failing, "a")
    await failing.hold(0.0)
    await clock.advance(20.0)
    assert Diary.texts() == ["start", "stop"] * 3
    with pytest.raises(AgentFailed, match="ValueError: no loop"):
        await failing.hold(0.0)
    assert await status_of(manager, "failing/a") == "failed"


@scenario
async def test_a_message_under_way_finishes_before_the_restart(world: World) -> None:
    manager, clock = world.manager, world.clock
    Failing.how, Failing.failures = "loop", 1
    failing = manager.handle(Failing, "a")
    under_way = asyncio.create_task(failing.hold(5.0))
    nested = asyncio.create_task(failing.call_myself(1.0))  # queued: it runs after the restart
    await clock.advance(3.0)
    assert Diary.texts() == ["start"]
    assert await under_way == 0
    await clock.advance(0.0)
    assert Diary.texts() == ["start", "stop"]
    assert await nested == 0
    assert Diary.texts() == ["start", "stop", "start"]


@scenario
async def test_a_call_back_into_an_agent_that_is_about_to_restart_does_not_wait_for_that(
    world: World,
) -> None:
    manager, clock = world.manager, world.clock
    Failing.how, Failing.failures = "loop", 1
    failing = manager.handle(Failing, "a")
    assert await failing.call_myself(2.0) == 0
    assert "start" not in Diary.texts()[1:]  # it finished in the old incarnation
    await clock.advance(2.0)
    assert Diary.texts() == ["start", "stop", "start"]


@scenario
async def test_a_message_that_does_not_finish_is_told_that_the_agent_was_restarted(
    world: World,
) -> None:
    manager, clock = world.manager, world.clock
    Failing.how, Failing.failures = "loop", 1
    failing = manager.handle(Failing, "a")
    stuck = asyncio.create_task(failing.with_timeout(None).hold(1e6))
    await clock.advance(0.5)
    with pytest.raises(HostDied, match="had to leave"):
        await stuck
    assert await failing.hold(0.0) == 0
    assert Diary.texts() == ["start", "stop", "start"]


# on_idle


@scenario
async def test_on_idle_is_called_once_before_the_agent_leaves_and_its_change_is_committed(
    world: World,
) -> None:
    manager, clock = world.manager, world.clock
    Tidy.takes_s, Tidy.fails = 0.0, False
    tidy = manager.handle(Tidy, "a")
    assert await tidy.tidied() == 0
    await clock.advance(9.0)
    assert Diary.texts() == ["call"]
    await clock.advance(10.0)
    assert Diary.texts() == ["call", "idle", "stop"]
    assert await status_of(manager, "tidy/a") is None
    assert await tidy.tidied() == 1


@scenario
async def test_a_message_that_comes_meanwhile_waits_for_on_idle_and_keeps_the_agent(
    world: World,
) -> None:
    manager, clock = world.manager, world.clock
    Tidy.takes_s, Tidy.fails = 5.0, False
    tidy = manager.handle(Tidy, "a")
    await tidy.tidied()
    await clock.advance(12.0)
    assert Diary.texts() == ["call", "idle"]
    assert await tidy.tidied() == 1
    await clock.advance(5.0)
    assert Diary.texts() == ["call", "idle", "call"]
    assert await status_of(manager, "tidy/a") == "idle"
    await clock.advance(20.0)
    assert Diary.texts() == ["call", "idle", "call", "idle", "stop"]


def test_an_error_of_on_idle_is_logged_and_keeps_nothing_in_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def untidy(world: World) -> None:
        manager, clock = world.manager, world.clock
        Tidy.takes_s, Tidy.fails = 0.0, True
        tidy = manager.handle(Tidy, "a")
        await tidy.tidied()
        await clock.advance(19.0)
        assert Diary.texts() == ["call", "idle", "stop"]
        assert await tidy.tidied() == 0  # undone

    in_virtual_time(untidy)
    assert [vars(r)["agent"] for r in caplog.records if r.getMessage().endswith("on_idle_failed")]


@scenario
async def test_on_stop_is_called_once_however_long_it_takes(world: World) -> None:
    manager, clock = world.manager, world.clock
    Tidy.takes_s, Tidy.fails = 0.0, False
    await manager.handle(Tidy, "a").tidied()
    await clock.advance(40.0)
    assert Diary.texts() == ["call", "idle", "stop"]


# Definitions


def test_definitions_that_cannot_work_are_refused_with_a_reason() -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        timer(0)
    with pytest.raises(ConfigurationError, match="more than 0"):
        timer(float("inf"))
    with pytest.raises(ConfigurationError, match=r"@timer\(5.0\)"):
        timer("5")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="takes no arguments"):

        @timer(1.0)
        async def ticks(self: Agent, more: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"write `def polls\(self, stop: threading.Event"):

        @loop
        def polls(self: Agent) -> None: ...

    with pytest.raises(ConfigurationError, match=r"write `async def watches\(self\)`"):

        @loop()
        async def watches(self: Agent, more: int) -> None: ...

    with pytest.raises(ConfigurationError, match="yields"):

        @loop
        async def gives(self: Agent) -> Any:
            yield self

    with pytest.raises(ConfigurationError, match="twice"):

        @timer(1.0)
        @timer(2.0)
        async def both(self: Agent) -> None: ...


def counters(runtime: LocalRuntime, agent: str) -> dict[str, Any]:
    """Return what an agent counted."""
    hosts: list[Any] = list(runtime.network.hosts.values())
    for host in hosts:
        for incarnation in host._host.residents:
            if str(incarnation.id) == agent:
                return incarnation.counters()
    raise AssertionError(f"{agent} is not in memory")


class Doomed(Agent):
    """Is addressed once, and has a loop that fails at once."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=1, backoff_s=1.0))

    @action
    async def hello(self) -> None:
        """Say nothing."""

    @loop
    async def fail(self) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")


def test_the_log_says_what_becomes_of_an_agent_whose_loop_fails(caplog: pytest.LogCaptureFixture):
    async def body() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("doom", [Doomed]))
            await manager.handle(Doomed, "f").hello()
            await asyncio.sleep(30)

    run(body())
    said = [r.getMessage() for r in caplog.records if "fail failed; the agent" in r.getMessage()]
    assert said == [
        "doomed/f: fail failed; the agent is restarted",
        "doomed/f: fail failed; the agent is given up, as its restart policy says",
    ]
