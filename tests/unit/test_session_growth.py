"""Many sessions, each prompted once: nothing of them is left when their agents have left memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

from agentray import Agent, AgentOptions, App, Prompt, on
from agentray.runtime.host import Host
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async
from tests.support.session_agents import Noted

SESSIONS = 300


class Brief(Agent):
    options = AgentOptions(idle_timeout_s=20.0)
    state: Noted

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> str:
        self.state.lines.append(prompt.text)
        return prompt.text


def incarnations() -> int:
    gc.collect()
    return sum(type(found) is Incarnation for found in gc.get_objects())


def all_hosts() -> list[Host]:
    return [found for found in gc.get_objects() if type(found).__mro__[1:2] == (Host,)]


def held_of(hosts: Sequence[Host]) -> dict[str, int]:
    """What hosts remember of runs and sessions; what is bounded by itself is left out."""
    return {
        "agents": sum(len(host.residents) for host in hosts),
        "runs": sum(len(host.runs) for host in hosts),
        "turns": sum(len(host.sessions) for host in hosts),
        "runs that they took part in": sum(len(host.parts.taken) for host in hosts),
    }


def test_hundreds_of_sessions_leave_nothing_in_memory() -> None:
    async def prompt_all(manager: ManagerClient) -> None:
        left = iter(range(SESSIONS))

        async def worker() -> None:
            for _ in left:
                session = await manager.sessions.create(agent=Brief, ttl_s=60)
                await manager.prompt("hello", session=session)

        await asyncio.gather(*(worker() for _ in range(64)))

    async def whole() -> None:
        others = all_hosts()  # that are left of other tests
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("brief", [Brief]))
            hosts = [found for found in all_hosts() if all(found is not each for each in others)]
            before = incarnations()
            await prompt_all(manager)
            assert held_of(hosts)["agents"] > SESSIONS // 2

            await asyncio.sleep(30)  # longer than they stay
            assert set(held_of(hosts).values()) == {0}
            assert incarnations() <= before

            async def forgotten() -> bool:
                return not await runtime.store.gone_sessions(limit=1)

            await asyncio.sleep(130)  # their time is over, and the pruner has been there
            await eventually_async(forgotten, 30, interval_s=5.0)
            assert not await manager.sessions.list(limit=1)
            assert not await runtime.store.list_states("brief", limit=1)

    run(whole())
