"""The testing kit, as those use it who test their agents."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import agentray
from agentray import (
    Agent,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    Prompt,
    action,
    on,
    timer,
)
from agentray.testing import LocalRuntime, ManualClock, run


class Rang(Event):
    number: int


class Heard(Event):
    number: int


class Alarm(Agent):
    def __init__(self) -> None:
        self.rings = 0

    @timer(60.0)
    async def ring(self) -> None:
        self.rings += 1
        self.context.publish(Rang(number=self.rings))

    @action
    async def count(self) -> int:
        return self.rings

    @action
    async def in_a_thread(self) -> int:
        return await self.run_sync(threading.get_ident)

    @action
    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @action
    async def naps_through_a_thread(self, seconds: float) -> str:
        other = self.handle(Alarm, "other").with_timeout(None).sync
        return await self.run_sync(lambda: other.nap(seconds))

    @action
    async def hang_in_a_thread(self) -> None:
        await self.run_sync(GATE.wait)


GATE = threading.Event()


class Sleeper(Agent):
    @on(Rang, key="key:one")
    async def hear(self, rang: Rang) -> Heard:
        return Heard(number=rang.number)


APP = App("alarms", [Alarm, Sleeper])


def test_hours_of_an_agents_life_take_no_time() -> None:
    async def a_day() -> int:
        async with LocalRuntime(hosts=1) as manager:
            await manager.deploy(APP)
            alarm = manager.handle(Alarm, "clock")
            await alarm.count()
            await ManualClock().advance(600.5)
            return await alarm.count()

    began = time.monotonic()
    assert run(a_day()) == 10
    assert time.monotonic() - began < 60  # virtual: ten minutes


def test_steps_by_hand_are_exact() -> None:
    async def steps() -> None:
        clock = ManualClock()
        fired: list[float] = []
        loop = asyncio.get_running_loop()
        for at in (1.0, 2.0, 2.5):
            loop.call_later(at, lambda: fired.append(clock.now))
        await clock.advance(0.9)
        assert fired == []
        await clock.advance(0.1)
        assert fired == [1.0]
        await clock.advance(1.5)
        assert fired == [1.0, 2.0, 2.5]
        assert clock.now == 2.5

    run(steps())


def test_advancing_lets_everything_happen_that_a_moment_sets_off() -> None:
    async def steps() -> None:
        happened: list[int] = []

        async def chain(depth: int) -> None:
            if depth:
                await asyncio.create_task(chain(depth - 1))
            happened.append(depth)

        async def later() -> None:
            await asyncio.sleep(1.0)
            await chain(5)

        task = asyncio.create_task(later())
        await ManualClock().advance(1.0)
        assert happened == [0, 1, 2, 3, 4, 5]
        await task

    run(steps())


def test_time_stands_still_while_the_test_does_not_wait_and_cannot_go_back() -> None:
    async def still() -> None:
        clock = ManualClock()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert clock.now == 0.0
        with pytest.raises(ValueError, match="back"):
            await clock.advance(-1.0)

    run(still())


def test_a_manual_clock_needs_virtual_time() -> None:
    async def real() -> None:
        ManualClock()

    with pytest.raises(ConfigurationError, match="VirtualTimeLoop"):
        asyncio.run(real())


def test_tasks_that_a_test_leaves_behind_fail_it_by_name() -> None:
    async def forgets() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(1000), name="forgotten")

    with pytest.raises(AssertionError, match=r"left behind: \['forgotten \(sleep\)'\]"):
        run(forgets())


def test_what_can_never_happen_and_what_takes_too_long_fails_at_once() -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def long() -> None:
        await asyncio.sleep(100.0)

    with pytest.raises(AssertionError, match="was not done after 3600 s of virtual time"):
        run(for_ever())
    with pytest.raises(AssertionError, match="was not done after 99 s of virtual time"):
        run(long(), at_most_s=99.0)
    run(long(), at_most_s=101.0)


def test_an_error_of_the_test_comes_through() -> None:
    async def fails() -> None:
        raise KeyError("it")

    with pytest.raises(KeyError, match="it"):
        run(fails())


def test_threads_are_waited_for_in_real_time() -> None:
    async def thread() -> None:
        clock = ManualClock()
        gate = threading.Event()
        call = asyncio.create_task(asyncio.to_thread(gate.wait, 30.0))
        asyncio.get_running_loop().call_later(5.0, lambda: None)
        await asyncio.sleep(0)
        threading.Timer(0.05, gate.set).start()
        assert await call
        assert clock.now == 0.0
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            assert await manager.handle(Alarm, "t").in_a_thread() != threading.get_ident()

    run(thread())


def test_time_passes_while_a_thread_waits_for_an_agent() -> None:
    async def naps() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            clock = ManualClock()
            alarm = manager.handle(Alarm, "one")
            assert await alarm.naps_through_a_thread(20.0) == "slept"
            assert 20.0 <= clock.now < 21.0
            with pytest.raises(DeadlineExceeded):
                await alarm.with_timeout(5.0).naps_through_a_thread(1000.0)
            call = asyncio.create_task(alarm.naps_through_a_thread(20.0))
            await clock.advance(30.0)
            assert call.done()

    run(naps())


def test_a_thread_that_never_ends_is_told_and_no_task_is_left_pending() -> None:
    tasks: set[asyncio.Task[Any]] = set()

    async def hangs() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            tasks.update(asyncio.all_tasks())
            await manager.handle(Alarm, "one").hang_in_a_thread()

    try:
        with pytest.raises(AssertionError, match="thread does not end"):
            run(hangs(), threads_at_most_s=0.5)
    finally:
        GATE.set()
    assert len(tasks) > 5
    assert all(task.done() for task in tasks)


def test_an_agent_that_a_thread_waits_for_in_vain_is_told() -> None:
    async def hangs() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            await manager.handle(Alarm, "one").with_timeout(None).naps_through_a_thread(10_000.0)

    with pytest.raises(AssertionError, match="was not done after 3600 s"):
        run(hangs())


def test_published_events_are_recorded_as_they_went_out() -> None:
    async def listen() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(APP)
            await manager.handle(Alarm, "clock").count()
            await ManualClock().advance(121.0)
            assert [event.number for event in runtime.events(Rang)] == [1, 2]
            first, second = runtime.events(Heard)
            assert first.source == "sleeper/one"
            assert first.correlation_id != second.correlation_id
            assert first.correlation_id == runtime.events(Rang)[0].correlation_id
            assert len(runtime.events(Event)) == len(runtime.published) == 4

    run(listen())


def test_a_runtime_that_was_left_by_an_error_leaves_nothing_behind() -> None:
    async def broken() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            await manager.handle(Alarm, "clock").count()
            raise ValueError("an error of the test")

    async def caught() -> None:
        with pytest.raises(ValueError, match="of the test"):
            await broken()

    run(caught())


def test_with_pytest_asyncio_each_test_has_virtual_time(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        """
import pytest
from agentray.testing import ManualClock, VirtualTimeLoop

def pytest_asyncio_loop_factories(config, item):
    return {"virtual time": VirtualTimeLoop}

@pytest.fixture
async def clock():
    return ManualClock()
"""
    )
    (tmp_path / "test_days.py").write_text(
        """
import asyncio
from agentray.testing import LocalRuntime

async def test_a_day(clock):
    async with LocalRuntime():
        await clock.advance(10.0)
    await asyncio.sleep(86_400.0)
    assert clock.now >= 86_410.0
"""
    )
    options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *(f"-o{o}" for o in options)]
    done = subprocess.run(
        [*command, "-pno:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(agentray.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


class Dozer(Agent):
    @on(Prompt)
    async def sleep(self, prompt: Prompt) -> str:
        await asyncio.sleep(float(prompt.text))
        return "slept"


def test_the_times_of_runs_are_those_of_the_virtual_clock() -> None:
    async def whole() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("sleepers", [Dozer]))
            await asyncio.sleep(600)
            slept = await manager.prompt("1200", agent="dozer", timeout=None)
            assert slept.started_at is not None
            assert slept.finished_at is not None
            assert slept.created_at <= slept.started_at
            assert (slept.started_at - slept.created_at).total_seconds() < 10
            assert (slept.finished_at - slept.started_at).total_seconds() == pytest.approx(
                1200, abs=1
            )

    run(whole())
