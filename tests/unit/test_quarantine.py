"""Agents that kill their hosts are found and quarantined; the others go on. In virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentOptions,
    AgentQuarantined,
    App,
    HostDied,
    ManagerClient,
    Prompt,
    RunStatus,
    action,
    on,
)
from agentray.core.deaths import Death, DeathCause
from agentray.ids import AgentId
from agentray.protocol.letters import LetterKind
from agentray.store.base import Store
from agentray.store.memory import MemoryStore
from agentray.store.supervision import FailureKind
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

CRASH = Death(DeathCause.CRASHED, "crashed: Segmentation fault (SIGSEGV)", "SIGSEGV")
KILL = Death(DeathCause.SIGKILL, "killed by SIGKILL", "SIGKILL")

runtimes: list[LocalRuntime] = []


async def die_here(agent: Agent, death: Death) -> None:
    """What a segmentation fault, or a kill, is in a process that all hosts share."""
    host: Any = agent.context.surroundings
    runtimes[-1].network.hosts[host.host_id].die(death)
    await asyncio.Event().wait()


class Poison(Agent):
    """Kills its host when it is poked, and when it is prompted."""

    options = AgentOptions(concurrency=None)

    @action
    async def poke(self) -> None:
        await die_here(self, CRASH)

    @action
    async def poke_later(self) -> None:
        await asyncio.sleep(1.0)
        await die_here(self, CRASH)

    @action
    async def hello(self) -> str:
        return "hello"

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> str:
        await die_here(self, CRASH)
        return prompt.text


class Calm(Agent):
    options = AgentOptions(concurrency=None)

    @action(idempotent=True)
    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return self.id.key


class Starter(Agent):
    """Kills its host when it starts."""

    async def on_start(self) -> None:
        await die_here(self, CRASH)

    @action
    async def hello(self) -> str:
        return "hello"


APP = App("poisons", [Poison, Calm, Starter], entry=Poison)


def runtime_of(store: Store | None = None, hosts: int = 2) -> LocalRuntime:
    runtimes.append(LocalRuntime(hosts=hosts, store=store))
    return runtimes[-1]


async def until_quarantined(manager: ManagerClient, agent: str, action: str) -> None:
    """Let an agent kill hosts until it takes no messages any more."""

    async def quarantined() -> bool:
        try:
            await manager.handle(AgentId.parse(agent)).with_timeout(None).call_by_name(action)
        except HostDied:
            return False  # maybe an earlier one, that the sender had not heard of
        except AgentQuarantined:
            return True
        raise AssertionError("it lived")

    await eventually_async(quarantined)


async def kill_once(manager: ManagerClient) -> None:
    """Let the agent kill one host more."""
    before = len((await manager.status())["host_deaths"])

    async def died() -> bool:
        with contextlib.suppress(HostDied):
            await manager.handle(Poison, "p").poke()
        return len((await manager.status())["host_deaths"]) > before

    await eventually_async(died)


def test_an_agent_that_kills_three_hosts_is_quarantined_until_it_is_reset():
    async def body() -> None:
        store = MemoryStore()
        async with runtime_of(store) as manager, asyncio.timeout(2000):
            await manager.deploy(APP)
            handle = manager.handle(Poison, "p")
            await until_quarantined(manager, "poison/p", "poke")
            with pytest.raises(AgentQuarantined, match=r"3 hosts died .* crashed: Segmentation"):
                await handle.poke()
            told = await handle.status()
            assert (told["status"], told["host_deaths"]) == ("quarantined", 3)
            (failure,) = await manager.failed_agents()
            assert (failure.agent, failure.kind) == (handle.id, FailureKind.QUARANTINED)
            # The others go on.
            assert await manager.handle(Poison, "q").hello() == "hello"
            assert await manager.handle(Calm, "c").wait(0.0) == "c"
            deaths = (await manager.status())["host_deaths"]
            assert [death["cause"] for death in deaths] == ["crashed"] * 3
        # It holds in a new cluster.
        async with runtime_of(store) as manager, asyncio.timeout(2000):
            handle = manager.handle(Poison, "p")
            with pytest.raises(AgentQuarantined):
                await handle.hello()
            assert list((await manager.status())["quarantined"]) == ["poison/p"]
            assert await handle.reset()
            assert await handle.hello() == "hello"
            assert await manager.failed_agents() == []
            # And its deaths are counted from none.
            await kill_once(manager)
            assert await manager.handle(Poison, "p").hello() == "hello"

    run(body())


def test_among_many_that_wait_the_one_that_kills_is_found_and_nobody_else_is():
    async def body() -> None:
        async with runtime_of(hosts=1) as manager, asyncio.timeout(2000):
            await manager.deploy(APP)
            others = [
                asyncio.create_task(manager.handle(Calm, str(n)).with_timeout(None).wait(20.0))
                for n in range(20)
            ]
            await until_quarantined(manager, "poison/p", "poke_later")
            assert sorted(await asyncio.gather(*others)) == sorted(str(n) for n in range(20))
            (failure,) = await manager.failed_agents()
            assert str(failure.agent) == "poison/p"

            async def nobody_is_suspected() -> bool:
                return not runtimes[-1].manager.quarantine.suspects

            await eventually_async(nobody_is_suspected, timeout_s=100)

    run(body())


def test_an_agent_that_kills_its_host_when_it_starts_is_quarantined():
    async def body() -> None:
        async with runtime_of() as manager, asyncio.timeout(2000):
            await manager.deploy(APP)
            await until_quarantined(manager, "starter/s", "hello")

    run(body())


def test_the_run_that_killed_the_hosts_is_dead_and_one_that_comes_later_fails():
    async def body() -> None:
        async with runtime_of() as manager, asyncio.timeout(2000):
            await manager.deploy(APP)
            ended = await manager.prompt("poison", agent=AgentId("poison", "p"), timeout=None)
            assert ended.status is RunStatus.DEAD
            assert ended.error is not None
            assert ended.error.type == "AgentQuarantined"
            assert ended.attempt == 3, "as many as hosts have died"
            [letter] = await manager.dead_letters()
            assert (letter.kind, letter.run_id) == (LetterKind.RUN, ended.id)
            assert letter.attempts == 3

            late = await manager.prompt("poison", agent=AgentId("poison", "p"), timeout=None)
            assert (late.status, late.attempt) == (RunStatus.FAILED, 1), "no host died of it"
            assert late.error is not None
            assert late.error.type == "AgentQuarantined"

            await manager.reset_agent("poison/p")
            again = await manager.retry_dead_letter(letter.id)
            assert again.id != ended.id, "after a reset it may be tried once more"

    run(body())


def test_kills_by_others_quarantine_nobody_who_goes_on_working():
    async def body() -> None:
        async with runtime_of() as manager, asyncio.timeout(1000):
            await manager.deploy(APP)
            handle = manager.handle(Calm, "c")
            for _ in range(6):
                waiting = asyncio.create_task(handle.wait(1.0))
                await asyncio.sleep(0.5)
                host = runtimes[-1].host_of(handle.id) or ""
                await runtimes[-1].kill_host(host, KILL)
                assert await waiting == "c"
                assert await handle.wait(0.0) == "c"

                async def cleared() -> bool:
                    return not runtimes[-1].manager.quarantine.suspects

                await eventually_async(cleared, timeout_s=60)
            assert await manager.failed_agents() == []

    run(body())


def test_a_suspect_goes_on_beside_its_own_turns_and_nobody_waits_after_a_first_kill() -> None:
    async def whole() -> None:
        runtime = runtime_of()
        async with runtime as manager:
            await manager.deploy(APP)
            for death, alone in ((KILL, False), (CRASH, True)):
                one, other = (manager.handle(Calm, f"{death.cause}-{n}") for n in range(2))
                long = [asyncio.create_task(h.with_timeout(None).wait(1000)) for h in (one, other)]
                await asyncio.sleep(1)
                for host in {runtime.host_of(h.id) for h in (one, other)}:
                    assert host is not None
                    runtime.network.hosts[host].die(death)
                await asyncio.sleep(1)
                assert runtime.manager.quarantine.suspects.get(one.id) is alone
                # The long ones are sent again, and hold nothing back of the same agent.
                for handle in (one, other) if not alone else (one,):
                    assert await handle.with_timeout(20).wait(0) == handle.id.key
                for task in long:
                    task.cancel()
                await asyncio.gather(*long, return_exceptions=True)

    run(whole())
