"""The manager is killed across the time at which something is due: it happens once all the same."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from agentray import AgentrayError, ManagerClient, Run, RunStatus
from agentray.client import AsyncAgentClient
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]


async def test_a_schedule_and_a_delayed_run_that_are_due_without_the_manager_are_one_run_each(
    cluster: Cluster, manager: ManagerClient
):
    hosts = await until_complete(manager)
    async with cluster.client() as client:
        killed: int = (await manager.status())["pid"]
        for ahead_s in (2, 4, 8, 16):  # a busy machine takes longer until it is prepared
            due = datetime.now(UTC) + timedelta(seconds=ahead_s)
            await client.schedules.create(
                "kill", prompt="tick", agent="parrot", every_s=3600, starts_at=due
            )
            delayed = await client.prompt("late", "parrot", at=due)
            if datetime.now(UTC) < due - timedelta(seconds=0.5):
                break
            await client.schedules.delete("kill")
            await client.cancel(delayed.id)
        assert (delayed.status, delayed.not_before) == (RunStatus.QUEUED, due)
        os.kill(killed, signal.SIGKILL)

        async def is_back() -> bool:
            try:
                return (await manager.status())["pid"] != killed
            except AgentrayError:
                return False

        assert await eventually_async(is_back, timeout_s=90, interval_s=0.2)
        came_back = datetime.now(UTC)
        ended = await client.run(delayed.id, wait_s=60)
        assert (ended.result, ended.attempt) == ({"text": "late"}, 1)

        async def fired() -> bool:
            return (await client.schedules.get("kill")).fired > 0

        assert await eventually_async(fired, timeout_s=30, interval_s=0.2)
        (first,) = await runs_of(client, "kill")
        first = await client.run(first.id, wait_s=30)
        assert (first.status, first.attempt, first.not_before) == (RunStatus.SUCCEEDED, 1, due)
        assert first.started_at is not None
        assert first.started_at > due
        assert first.started_at - max(due, came_back) < timedelta(seconds=60), "not in an hour"

        await client.schedules.trigger("kill")  # what comes after it is looked at, too

        async def triggered() -> bool:
            found = await runs_of(client, "kill")
            return [run.status for run in found] == [RunStatus.SUCCEEDED] * 2

        assert await eventually_async(triggered, timeout_s=30, interval_s=0.2)
        assert (await client.schedules.get("kill")).fired == 2
        await client.schedules.delete("kill")
    assert await until_complete(manager) == hosts


async def runs_of(client: AsyncAgentClient, schedule_id: str) -> list[Run]:
    page = await client.runs(limit=200, agent="parrot")
    return [run for run in page.runs if run.schedule == schedule_id]
