"""Callers hear why a host died, whichever way the news of it comes first."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, HostDied, action
from agentray.core.deaths import HUNG, Death, DeathCause
from agentray.runtime.last_deaths import TOLD, LastDeaths
from agentray.testing import LocalRuntime, run

CRASH = Death(DeathCause.CRASHED, "crashed: Segmentation fault (SIGSEGV)", "SIGSEGV")


class Sleeper(Agent):
    @action
    async def sleep(self) -> None:
        await asyncio.sleep(1_000_000)


async def reason_after(death: Death) -> tuple[str, str]:
    """Let a host die under a call; return what the caller hears, and what the status tells."""
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager, asyncio.timeout(500):
        await manager.deploy(App("sleepers", [Sleeper]))
        sleeper = manager.handle(Sleeper, "s")
        call = asyncio.create_task(sleeper.with_timeout(400).sleep())
        await asyncio.sleep(1)
        host = runtime.host_of(sleeper.id)
        assert host is not None
        if death is HUNG:
            runtime.cut_off(host)  # its link only waits: the snapshot without it comes first
        else:
            await runtime.kill_host(host, death)
        with pytest.raises(HostDied) as raised:
            await call
        (told,) = (await manager.status())["host_deaths"]
        assert told["host"] == host == raised.value.host
        return raised.value.reason, told["reason"]


@pytest.mark.parametrize("death", [HUNG, CRASH], ids=["hung", "crashed"])
def test_a_caller_and_the_status_tell_the_same_reason(death: Death) -> None:
    assert run(reason_after(death)) == (death.reason, death.reason)


def test_the_last_deaths_are_few_and_the_newest_come_first() -> None:
    deaths = LastDeaths()
    for number in range(TOLD + 5):
        deaths.note(f"host_{number}", "default", CRASH)
    newest = [f"host_{number}" for number in reversed(range(5, TOLD + 5))]
    assert [told["host"] for told in deaths.told()] == newest
    assert list(deaths.reasons()) == newest
    assert set(deaths.reasons().values()) == {CRASH.reason}
