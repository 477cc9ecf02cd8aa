"""Hosts die in every way on a real cluster: the reason is told, and who did it is quarantined."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentOptions,
    AgentQuarantined,
    App,
    HostDied,
    ManagerClient,
    Pool,
    action,
)
from agentray.runtime.session_dirs import ray_dir
from tests.support.cluster import Cluster, files_below, text_of
from tests.support.eventually import eventually_async
from tests.support.memory_limit import memory_limit

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


class Mortal(Agent):
    options = AgentOptions(pool="mortal", concurrency=None)

    @action(idempotent=True)
    async def pid(self) -> int:
        return os.getpid()

    @action
    async def segfault(self) -> None:
        ctypes.string_at(0)

    @action
    async def leave(self, code: int) -> None:
        os._exit(code)

    @action
    async def abort(self) -> None:
        os.abort()

    @action
    async def sys_exit(self) -> None:
        sys.exit(4)

    @action
    async def be_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @action
    async def eat(self, group: Path, much: int) -> int:
        await self.run_sync(group.write_text, str(os.getpid()))
        return len(bytearray(b"x") * much)

    @action
    async def hang(self) -> None:
        ctypes.PyDLL(None).sleep(600)  # with the GIL, as a loop that computes; but that computes


@pytest.fixture(scope="module")
async def mortals(manager: ManagerClient) -> AsyncGenerator[ManagerClient]:
    await manager.deploy(App("mortals", [Mortal], pools=[Pool("mortal", hosts=1)]))
    yield manager
    await manager.stop("mortals")
    await manager.remove_pool("mortal")


async def deaths(manager: ManagerClient) -> list[dict[str, Any]]:
    return [d for d in (await manager.status())["host_deaths"] if d["pool"] == "mortal"]


async def last_death(manager: ManagerClient, before: int) -> dict[str, Any]:
    """Return the death that comes after those that were known before."""

    async def told() -> dict[str, Any]:
        told = await deaths(manager)
        return told[0] if len(told) > before else {}

    return await eventually_async(told, timeout_s=60)


async def test_each_way_to_die_is_told_to_the_caller_and_in_the_status(
    mortals: ManagerClient, cluster: Cluster
):
    ways = [
        ("segfault", (), "crashed", "crashed: Segmentation fault (SIGSEGV)"),
        ("leave", (3,), "exited", "exit code 3"),
        ("abort", (), "crashed", "crashed: Aborted (SIGABRT)"),
        ("be_killed", (), "sigkill", "killed by SIGKILL"),
        ("hang", (), "hung", "did not answer three heartbeats"),
    ]
    pid = 0
    for number, (way, args, cause, reason) in enumerate(ways):
        handle = mortals.handle(Mortal, way).with_timeout(120.0)
        pid = await handle.pid()
        with pytest.raises(HostDied) as died:
            await handle.call_by_name(way, args)
        assert reason in died.value.reason, way
        told = await last_death(mortals, number)
        assert told["cause"] == cause
        assert reason in told["reason"]
    # Before the hanging one was killed, its stacks went to its own log.
    files = files_below(ray_dir(cluster.home))
    logs = [file for file in files if file.match(f"logs/worker-*-{pid}.err")]
    assert any("in hang" in text_of(log) for log in logs), logs
    # `sys.exit` ends its own message, and nothing else.
    handle = mortals.handle(Mortal, "polite").with_timeout(120.0)
    pid = await handle.pid()
    with pytest.raises(Exception, match="SystemExit"):
        await handle.sys_exit()
    assert await handle.pid() == pid


async def test_one_that_the_kernel_kills_for_want_of_memory_says_so(mortals: ManagerClient):
    before = len(await deaths(mortals))
    handle = mortals.handle(Mortal, "hungry").with_timeout(120.0)
    assert await handle.pid()
    with memory_limit(64 * 2**20) as group:
        with pytest.raises(HostDied, match="killed by the kernel: out of memory"):
            await handle.eat(group, 512 * 2**20)
        assert (await last_death(mortals, before))["cause"] == "out of memory"
    assert await handle.pid(), "it is not blamed: its neighbour may have been the hungry one"


async def test_an_agent_that_kills_its_hosts_is_quarantined_and_the_others_go_on(
    mortals: ManagerClient, cluster: Cluster
):
    poison = mortals.handle(Mortal, "poison").with_timeout(120.0)

    async def quarantined() -> bool:
        try:
            await poison.segfault()
        except HostDied:
            return False
        except AgentQuarantined:
            return True
        raise AssertionError("it lived")

    await eventually_async(quarantined, timeout_s=200)
    assert await mortals.handle(Mortal, "calm").with_timeout(120.0).pid()
    assert (await poison.status())["status"] == "quarantined"
    shown = cluster.agentray("agents", "--failed")
    assert "mortal/poison" in shown.stdout
    assert "quarantined" in shown.stdout
    assert cluster.agentray("agent", "show", "mortal/poison").stdout.count("SIGSEGV")
    assert cluster.agentray("agent", "reset", "mortal/poison").exit_code == 0
    assert await poison.pid()
    assert "mortal/poison" not in cluster.agentray("agents", "--failed").stdout
