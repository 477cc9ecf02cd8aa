"""The life of runs on a real cluster: asked, answered, cancelled, limited, over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agentray import Budget, ManagerClient
from agentray.protocol.runs import RunStatus
from tests.support.cluster import Cluster, until_complete
from tests.support.lifecycle_agents import app

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
async def deployed(manager: ManagerClient) -> None:
    await manager.deploy(app)


async def test_a_waiting_run_outlives_every_host(cluster: Cluster, manager: ManagerClient):
    async with cluster.client() as client:
        whole = await client.prompt("Tea", agent="approver/a", wait_s=60)
        steps = await client.prompt("Tea", agent="approver/b", durability="step", wait_s=60)
        for asked in (whole, steps):
            assert asked.status is RunStatus.WAITING
            assert asked.question is not None
            assert asked.question.question == "Tea?"
        killed = await until_complete(manager)
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        await until_complete(manager, without=killed.values())
        listed = await client.runs(status=RunStatus.WAITING)
        assert {whole.id, steps.id} <= {run.id for run in listed.runs}
        for asked in (whole, steps):
            ended = await client.answer(asked.id, True, wait_s=90)
            assert (ended.status, ended.result, ended.attempt) == (
                RunStatus.SUCCEEDED,
                "Tea: True",
                1,
            )


async def test_a_run_is_cancelled_over_http(cluster: Cluster):
    async with cluster.client() as client:
        begun = await client.prompt("600", agent="toiler/a", wait_s=0.5)
        assert begun.finished_at is None
        ended = await client.cancel(begun.id)
        assert ended.status is RunStatus.CANCELLED


async def test_budgets_and_deadlines_end_runs(cluster: Cluster):
    async with cluster.client() as client:
        few = Budget(tokens=5)
        whole, steps, late = await asyncio.gather(
            client.prompt("600", agent="toiler/b", budget=few, wait_s=60),
            client.prompt("600", agent="toiler/d", budget=few, durability="step", wait_s=60),
            client.prompt("600", agent="toiler/c", run_timeout_s=0.5, wait_s=60),
        )
        for spent in (whole, steps):
            assert spent.status is RunStatus.BUDGET_EXCEEDED
            assert spent.usage is not None
            assert spent.usage.tokens >= 6
        assert late.status is RunStatus.TIMED_OUT
