"""Callers hear why a host died, whichever way the news of it comes first."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, HostDied, Prompt, action, on
from agentray.core.deaths import HUNG, NODE_LOST, Death, DeathCause, NodeSign, death_of_silent
from agentray.ids import AgentId
from agentray.runtime.host_keeper import HEARTBEAT_S
from agentray.runtime.last_deaths import TOLD, LastDeaths
from agentray.store.base import HostRow
from agentray.store.memory import MemoryStore
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


def test_a_lost_node_is_told_at_once_moves_its_slots_and_is_no_agents_fault() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime(hosts=2, nodes=("north", "south"))
        async with runtime as manager, asyncio.timeout(500):
            await manager.deploy(App("sleepers", [Sleeper]))
            loop = asyncio.get_running_loop()
            calls = {
                n: asyncio.create_task(manager.handle(Sleeper, f"{n}").with_timeout(400).sleep())
                for n in range(16)
            }
            await asyncio.sleep(1)
            lost = {h["id"] for h in (await manager.status())["hosts"] if h["node_id"] == "south"}
            assert len(lost) == 1
            there = [n for n in calls if runtime.host_of(AgentId("sleeper", f"{n}")) in lost]
            assert 0 < len(there) < 16
            runtime.lose_node("south")
            since = loop.time()
            for n in there:
                with pytest.raises(HostDied, match="its node was lost"):
                    await calls[n]
            assert loop.time() - since < 2 * HEARTBEAT_S
            status = await manager.status()
            assert {d["host"]: d["cause"] for d in status["host_deaths"]} == dict.fromkeys(
                lost, "node lost"
            )
            assert runtime.manager.quarantine.suspects == {}
            for call in calls.values():
                call.cancel()
            await asyncio.gather(*calls.values(), return_exceptions=True)

    run(scenario())


class SlowBurials(MemoryStore):
    """Keeps late that a host has died."""

    async def put_host(self, host: HostRow) -> None:
        if host.status == "dead":
            await asyncio.sleep(30.0)
        await super().put_host(host)


class Patient(Agent):
    @on(Prompt)
    async def hear(self, prompt: Prompt) -> str:
        self.context.progress("at it")
        await asyncio.sleep(2.0)
        return prompt.text


def test_a_run_that_is_tried_again_tells_the_reason_also_before_the_death_is_kept() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime(store=SlowBurials())
        async with runtime as manager:
            await manager.deploy(App("patients", [Patient]))
            prompted = asyncio.create_task(manager.prompt("hello", agent="patient/p"))
            await asyncio.sleep(1.0)
            host = runtime.host_of(AgentId("patient", "p"))
            assert host is not None
            await runtime.kill_host(host, CRASH)
            ended = await prompted
            assert (ended.status, ended.attempt) == ("succeeded", 2)
            events = await runtime.store.run_events(ended.id)
            (lost,) = [event.data["reason"] for event in events if event.kind == "attempt_lost"]
            assert lost == f"the host {host} was lost: {CRASH.reason}"

    run(scenario())


@pytest.mark.parametrize(
    ("node", "missed_all", "told"),
    [
        (NodeSign.THERE, False, None),
        (NodeSign.THERE, True, HUNG),
        (NodeSign.SILENT, False, None),
        (NodeSign.SILENT, True, NODE_LOST),
        (NodeSign.GONE, False, NODE_LOST),
        (NodeSign.GONE, True, NODE_LOST),
    ],
)
def test_who_does_not_answer_is_dead_when_its_machine_is_or_after_three_heartbeats(
    node: NodeSign, missed_all: bool, told: Death | None
) -> None:
    assert death_of_silent(node, missed_all=missed_all) == told


def test_the_last_deaths_are_few_and_the_newest_come_first() -> None:
    deaths = LastDeaths()
    for number in range(TOLD + 5):
        deaths.note(f"host_{number}", "default", CRASH)
    newest = [f"host_{number}" for number in reversed(range(5, TOLD + 5))]
    assert [told["host"] for told in deaths.told()] == newest
    assert list(deaths.reasons()) == newest
    assert set(deaths.reasons().values()) == {CRASH.reason}
