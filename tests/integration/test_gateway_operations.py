"""What operators do over HTTP, with both clients, on a whole cluster in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest

from agentray import Agent, AgentFailed, AgentOptions, App, ManagerClient, RestartPolicy, action
from agentray.client import AgentClient, AsyncAgentClient, Forbidden, NotFound
from agentray.patterns import Group, GroupAgent, Member
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.gateway import INVOKE_KEY, KEY, READ_KEY, Gateway, Http


class Clerk(Agent):
    @action
    async def greet(self) -> str:
        return "good morning"


class Fussy(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=0))
    broken = True

    async def on_start(self) -> None:
        if self.broken:
            raise ValueError("not today")

    @action
    async def greet(self) -> str:
        return "today"


class Office(GroupAgent):
    group = Group([Member(Clerk, name="first")])
    starts = ("main",)


class Bench:
    def __init__(self, runtime: LocalRuntime, manager: ManagerClient, gateway: Gateway) -> None:
        self.runtime, self.manager, self.gateway = runtime, manager, gateway


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncGenerator[Bench]:
    Fussy.broken = True
    async with (runtime := LocalRuntime(hosts=2, nodes=("north", "south"))) as manager:
        await manager.deploy(App("office", [Clerk, Fussy, Office]))
        gateway = Gateway(MemoryStore(), tmp_path, manager=manager)
        await gateway.prepare()
        async with gateway.serving():
            yield Bench(runtime, manager, gateway)


async def test_hosts_and_nodes_are_drained_and_the_status_tells(bench: Bench) -> None:
    async with AsyncAgentClient(bench.gateway.url, KEY) as client:
        operations = client.operations
        status = await operations.status()
        assert [app["name"] for app in status["apps"]] == ["office"]
        assert status["upgrades"] == []
        victim = status["hosts"][0]["id"]
        drained = await operations.drain_host(victim)
        assert (drained.drained, drained.waiting) == (True, "")
        assert victim not in bench.runtime.hosts
        assert await bench.manager.handle(Clerk, "a").greet() == "good morning"

        assert (await operations.drain_node("north")).drained
        assert {host["node_id"] for host in (await operations.status())["hosts"]} == {"south"}
        await operations.undrain_node("north")
        assert {node["status"] for node in await bench.manager.nodes()} == {"active"}
        for unknown in (operations.drain_host("host_x"), operations.drain_node("west")):
            with pytest.raises(NotFound, match="There is no"):
                await unknown


async def test_failed_agents_are_found_and_reset(bench: Bench) -> None:
    fussy = bench.manager.handle(Fussy, "a/b c")
    with pytest.raises(AgentFailed):
        await fussy.greet()
    async with AsyncAgentClient(bench.gateway.url, KEY) as client:
        [failed] = await client.operations.failed_agents("fussy")
        assert (failed.agent, failed.kind) == ("fussy/a/b c", "failed")
        assert "not today" in failed.error
        assert "ValueError" in failed.traceback
        assert await client.operations.failed_agents("clerk") == []
        Fussy.broken = False
        assert await client.operations.reset_agent(failed.agent)
        assert not await client.operations.reset_agent(failed.agent), "it has not failed any more"
        assert await fussy.greet() == "today"
        with pytest.raises(NotFound):
            await client.operations.reset_agent("nobody/a")


async def test_groups_are_listed_and_what_is_left_over_is_ended(bench: Bench) -> None:
    def blocking() -> None:
        with AgentClient(bench.gateway.url, KEY) as client:
            [group] = client.operations.groups()
            assert (group.group, group.app, group.status) == ("office/main", "office", "running")
            assert client.operations.gc(dry_run=True).model_dump() == {"found": [], "ended": False}
            assert client.operations.gc().ended

    await asyncio.to_thread(blocking)


async def test_only_an_admin_of_no_tenant_operates(bench: Bench) -> None:
    for key in (READ_KEY, INVOKE_KEY):
        async with AsyncAgentClient(bench.gateway.url, key) as client:
            with pytest.raises(Forbidden):
                await client.operations.status()
    async with AsyncAgentClient(bench.gateway.url, KEY, tenant="acme") as client:
        with pytest.raises(Forbidden, match="tenant"):
            await client.operations.gc()


async def test_a_question_that_is_wrong_is_told_so(bench: Bench) -> None:
    async with aiohttp.ClientSession() as session:
        http = Http(bench.gateway.url, session)
        host = bench.runtime.hosts[0]
        status, problem, _ = await http.ask(
            "POST", f"/v1/operations/hosts/{host}/drain?wait_s=-1", body={}
        )
        assert (status, problem["errors"][0]["field"]) == (422, "wait_s")
    assert host in bench.runtime.hosts
