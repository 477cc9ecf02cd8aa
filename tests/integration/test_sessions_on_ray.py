"""Sessions on a real cluster: turns and roll backs when the host of the agent is killed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agentray import ManagerClient
from agentray.protocol.runs import RunStatus
from tests.support.cluster import Cluster
from tests.support.session_agents import dawdlers

pytestmark = pytest.mark.timeout(240)


async def test_turns_outlive_the_host_of_their_agent(cluster: Cluster, manager: ManagerClient):
    await manager.deploy(dawdlers)
    async with cluster.client() as client:
        session = await client.sessions.create(agent="dawdler")
        first = await client.prompt("0 a", session=session.id, wait_s=60)
        assert first.result["lines"] == ["a"]
        under_way = await client.prompt("600 b", session=session.id, wait_s=0.5)
        queued = await client.prompt("0 c", session=session.id, wait_s=0)
        assert {under_way.status, queued.status} <= {RunStatus.RUNNING, RunStatus.QUEUED}
        os.kill(first.result["process"], signal.SIGKILL)

        last = await client.prompt("0 d", session=session.id, policy="rollback", wait_s=90)

        assert last.result["lines"] == ["a", "d"]
        ended = await asyncio.gather(*(client.run(run.id) for run in (under_way, queued)))
        assert [run.status for run in ended] == [RunStatus.CANCELLED] * 2
        page = await client.sessions.runs(session.id)
        assert [each.prompt for each in page.runs] == ["0 a", "0 d"]
        await client.sessions.delete(session)
