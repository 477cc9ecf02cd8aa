"""A host is killed in the middle of runs that are durable per step: each step has one effect."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agentray import AgentId, ManagerClient, RunStatus
from agentray.errors import UnknownState
from tests.support import step_agents
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async

pytestmark = [pytest.mark.timeout(300)]

HEIGHT = 7
TREES = ("ash", "elm", "oak")


async def counted(manager: ManagerClient, agent: AgentId, field: str = "steps") -> int:
    try:
        return (await manager.save_state(agent)).state[field]
    except UnknownState:
        return 0


async def steps(manager: ManagerClient, tree: str) -> int:
    nodes = step_agents.nodes_of(tree)
    return sum(await asyncio.gather(*(counted(manager, node) for node in nodes)))


async def test_hundreds_of_steps_have_one_effect_each_though_a_host_is_killed_among_them(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    gate = tmp_path / "gate"
    await manager.deploy(step_agents.app)
    before = await until_complete(manager)
    dispatched = [
        await manager.dispatch(
            step_agents.Planted(tree=tree, height=HEIGHT, gate=str(gate)), durability="step"
        )
        for tree in TREES[:2]
    ]
    async with cluster.client() as client:
        text = f"{TREES[2]} {HEIGHT} {gate}"
        prompted = await client.prompt(text, "forester", durability="step", wait_s=0)

        async def half_way() -> bool:
            return all([await steps(manager, tree) > 0 for tree in TREES])

        await eventually_async(half_way, timeout_s=60)
        assert {run.status for run in dispatched} == {RunStatus.RUNNING}
        victim = next(iter(before.values()))
        os.kill(victim, signal.SIGKILL)
        gate.touch()  # while its work is taken over, the other hosts do theirs
        ended = await asyncio.gather(
            *(run.wait(200) for run in dispatched), client.run(prompted.id, wait_s=200)
        )

    for run in ended:
        assert (run.status, run.result) == (RunStatus.SUCCEEDED, step_agents.felled(HEIGHT)), run
    for tree in TREES:
        assert await steps(manager, tree) == step_agents.steps_of(HEIGHT)
        gatherer = AgentId("gatherer", tree)
        assert await counted(manager, gatherer, "leaves") == 2**HEIGHT
    after = await until_complete(manager, without=[victim])
    assert len(after) == len(before)
    await manager.stop(step_agents.app.name)
