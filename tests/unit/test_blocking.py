"""The watchdog: what counts as a blocked event loop, and what it says of one."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray import Agent, App, ManagerClient, action
from agentray.core.blocking import Blocking, Observation, Verdict
from agentray.runtime.watchdog import Watchdog
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

_sleep = time.sleep  # noqa: TID251 - it blocks on purpose


def seen(
    beat: int, *, elapsed: float = 0.05, late: bool = False, runnable: bool = False, cpu: float = 0
) -> Observation:
    return Observation(beat, elapsed, late, runnable, cpu)


def verdicts(*observations: Observation) -> list[Verdict]:
    blocking = Blocking(0.15)
    blocking.observe(seen(0))
    return [blocking.observe(observation) for observation in observations]


def test_a_loop_that_beats_is_fine() -> None:
    assert verdicts(seen(1), seen(2), seen(2), seen(3), seen(3)) == [Verdict.FINE] * 5


def test_a_handler_that_sleeps_is_blocking_until_the_next_beat() -> None:
    found = verdicts(*[seen(0, elapsed=0.06)] * 5, seen(1), seen(2))
    assert found == [
        Verdict.FINE,
        Verdict.FINE,
        Verdict.BEGAN,
        Verdict.GOES_ON,
        Verdict.GOES_ON,
        Verdict.ENDED,
        Verdict.FINE,
    ]


def test_a_handler_that_computes_is_blocking() -> None:
    busy = seen(0, runnable=True, cpu=0.049)
    assert Verdict.BEGAN in verdicts(*[busy] * 4)


def test_one_that_does_not_let_go_of_the_interpreter_is_blocking() -> None:
    """The observer itself wakes late then; the CPU time of the loop's thread is the evidence."""
    assert verdicts(seen(0, elapsed=2.0, late=True, cpu=1.9)) == [Verdict.BEGAN]


def test_a_process_that_was_stopped_was_not_blocked() -> None:
    assert verdicts(seen(0, elapsed=60.0, late=True), seen(0), seen(1)) == [Verdict.FINE] * 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 0.005)), max_size=20))
def test_a_loop_that_gets_no_cpu_is_not_blamed(waits: list[tuple[bool, float, float]]) -> None:
    observations = [
        seen(0, elapsed=elapsed, late=late, runnable=not late, cpu=cpu)
        for late, elapsed, cpu in waits
    ]
    assert Verdict.BEGAN not in verdicts(*observations)


# The real thing: a thread that looks at this event loop


class Sloth(Agent):
    @action
    async def sleep(self, seconds: float) -> None:
        _sleep(seconds)

    @action
    async def compute(self, seconds: float) -> int:
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            count += 1
        return count

    @action
    async def sleep_in_a_thread(self, seconds: float) -> None:
        await self.run_sync(_sleep, seconds)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if vars(r).get("action") == "loop_blocked"]


async def deploy(manager: ManagerClient) -> None:
    await manager.deploy(App("sloths", [Sloth]))


@pytest.mark.parametrize("how", ["sleep", "compute"])
async def test_a_handler_that_blocks_is_told_once_with_its_agent_and_the_place(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalRuntime() as manager:
        await deploy(manager)
        watchdog = Watchdog(0.1)
        try:
            handle, blocked = manager.handle(Sloth, "slow"), 0

            async def is_told() -> bool:
                # A machine that is too busy to tell is asked again.
                nonlocal blocked
                blocked += 1
                await handle.call_by_name(how, (0.6,))
                await asyncio.sleep(0.2)
                return bool(told(caplog))

            await eventually_async(is_told, timeout_s=60.0)
        finally:
            watchdog.close()
        record = told(caplog)[0]
        assert vars(record)["agent"] == "sloth/slow"
        assert vars(record)["milliseconds"] > 100
        assert f"in {how}" in vars(record)["stack"]
        assert watchdog.blocked == len(told(caplog)) <= blocked


async def test_a_block_that_does_not_end_is_told_while_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with LocalRuntime() as manager:
        await deploy(manager)
        watchdog = Watchdog(0.1)
        try:

            async def is_told_at_once() -> bool:
                before = len(told(caplog))
                await manager.handle(Sloth, "slower").sleep(1.6)
                return len(told(caplog)) > before

            await eventually_async(is_told_at_once, timeout_s=60.0)
            assert vars(told(caplog)[-1])["agent"] == "sloth/slower"
            assert "still does" in told(caplog)[-1].getMessage()
        finally:
            watchdog.close()


async def test_waiting_and_threads_are_not_blocking(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalRuntime() as manager:
        await deploy(manager)
        watchdog = Watchdog(0.2)
        try:
            await manager.handle(Sloth, "patient").sleep_in_a_thread(0.8)
            await asyncio.sleep(0.3)
        finally:
            watchdog.close()
    assert told(caplog) == []


async def test_what_no_agent_does_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(0.1)
    try:
        _sleep(0.5)
        await asyncio.sleep(0.2)
    finally:
        watchdog.close()
    assert told(caplog) == []
