"""Launching on a real cluster with two hosts: what only processes that die can show."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

import agentray
from agentray import AgentStatus, AgentStopped, Launch, ManagerClient
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async
from tests.support.helpers import Named, Parrot

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]

DRIVER = """
import asyncio, agentray
from tests.support.helpers import Named

async def main():
    async with agentray.connect() as manager:
        for n in range(8):
            await manager.launch(Named, args=("bound",), name=f"bound-{n}", lifetime="driver",
                                 labels={"of": "driver"})
        await manager.launch(Named, args=("free",), name="free", labels={"of": "driver"})
        print("launched", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def statuses(manager: ManagerClient, **labels: str) -> dict[str, AgentStatus]:
    return {record.id.key: record.status for record in await manager.find(labels=labels)}


async def test_agents_of_a_driver_that_is_killed_are_shut_down_and_the_others_go_on(
    cluster: Cluster, manager: ManagerClient
):
    env = {**cluster.env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    driver = subprocess.Popen(  # noqa: ASYNC220 - begins at once
        [sys.executable, "-c", DRIVER], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None
        assert await asyncio.to_thread(driver.stdout.readline) == "launched\n"
    finally:
        driver.send_signal(signal.SIGKILL)
        await asyncio.to_thread(driver.wait)
        if driver.stdout is not None:
            driver.stdout.close()
    before = await statuses(manager, of="driver")
    assert set(before.values()) == {AgentStatus.RUNNING}

    done, pending = await manager.wait([f"named/bound-{n}" for n in range(8)], timeout=90)
    assert (len(done), pending) == (8, set())
    with pytest.raises(AgentStopped):
        await manager.handle(Named, "bound-0").greet()
    text, _ = await manager.handle(Named, "free").greet()
    assert text == "free!"


async def test_a_driver_that_leaves_ends_its_own_at_once(cluster: Cluster, manager: ManagerClient):
    async with agentray.connect(settings=cluster.settings) as other:
        bound = await other.launch(Parrot, name="bound", lifetime="driver")
        assert await bound.echo(1) == 1
    with pytest.raises(AgentStopped):
        await manager.handle(Parrot, "bound").echo(1)


async def test_instances_and_batches_survive_the_death_of_their_host(manager: ManagerClient):
    hosts = await until_complete(manager)
    batch = [Launch(Named("carried"), name=f"c{n}", labels={"in": "batch"}) for n in range(24)]
    handles = await manager.launch_batch([*batch, Launch(Named, ("made",), name="m")])
    homes = dict(zip(handles, await asyncio.gather(*(h.greet() for h in handles)), strict=True))
    assert {process for _, process in homes.values()} == set(hosts.values())
    stopped = handles[0]
    await manager.shutdown(stopped)

    victim = homes[handles[1]][1]
    waiting = asyncio.create_task(manager.wait([handles[1]]))
    os.kill(victim, signal.SIGKILL)
    after = await asyncio.gather(*(h.greet() for h in handles[1:]))
    assert {text for text, _ in after} == {"carried!", "made!"}
    assert victim not in {process for _, process in after}
    with pytest.raises(AgentStopped):
        await stopped.greet()
    await manager.shutdown(handles[1], terminate=True)
    done, _ = await waiting
    assert done == {handles[1]}
    await until_complete(manager, without=[victim])
    found = await statuses(manager, **{"in": "batch"})
    assert found.pop("c0") == AgentStatus.STOPPED
    assert found == {f"c{n}": AgentStatus.RUNNING for n in range(2, 24)}


async def test_the_command_line_lists_and_stops_launched_agents(
    cluster: Cluster, manager: ManagerClient
):
    await manager.launch(Named, args=("hi",), name="cli", labels={"who": "cli"})
    listed = await asyncio.to_thread(
        cluster.agentray, "agents", "--type", "named", "--label", "who=cli"
    )
    assert listed.exit_code == 0
    (line,) = [line for line in listed.stdout.splitlines() if "named/cli" in line]
    assert "running" in line
    stopped = await asyncio.to_thread(cluster.agentray, "agent", "stop", "named/cli")
    assert (stopped.exit_code, stopped.stdout) == (0, "named/cli: stopped\n")

    async def is_stopped() -> bool:
        return await statuses(manager, who="cli") == {"cli": AgentStatus.STOPPED}

    await eventually_async(is_stopped)
    again = await asyncio.to_thread(cluster.agentray, "agents", "--label", "nonsense")
    assert again.exit_code == 2
    assert "NAME=VALUE" in again.complaint
