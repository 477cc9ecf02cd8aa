"""Runs of events on a real cluster with two hosts: what only processes of their own can show."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path
from typing import get_args

import pytest

import agentray
from agentray import ManagerClient, RunFailed
from agentray.event_run import DurabilityName
from tests.support.cluster import Cluster, live_hosts, until_complete
from tests.support.event_agents import Left, Ping, Right, Started, Summed, app
from tests.support.eventually import eventually_async

pytestmark = pytest.mark.timeout(240)

durabilities = pytest.mark.parametrize("durability", ["run", "step", "none"])


@pytest.fixture(autouse=True)
async def deployed(manager: ManagerClient) -> None:
    await manager.deploy(app)


@durabilities
async def test_runs_over_two_hosts_end_each_with_its_own_result(
    manager: ManagerClient, durability: DurabilityName
):
    runs = [await manager.dispatch(Started(number=n), durability=durability) for n in range(200)]
    results = await asyncio.gather(*(run.result(Summed, timeout=60) for run in runs))
    assert [result.number for result in results] == [2 * n for n in range(200)]
    assert await manager.wait_idle(60)
    for run in runs[:20]:
        seen = [event async for event in run.events()]
        assert {type(event) for event in seen} == {Started, Left, Right, Summed}
        assert len(seen) == 4


async def test_a_failure_on_another_host_tells_its_path(manager: ManagerClient):
    runs = [await manager.dispatch(Started(number=-n), durability="none") for n in range(1, 9)]
    for n, run in enumerate(runs, 1):
        with pytest.raises(RunFailed, match=f"negative: -{n}") as failed:
            await run.result(timeout=60)
        assert failed.value.path[0].startswith("Started at left_agent/")


@durabilities
async def test_an_endless_exchange_between_hosts_is_cancelled(
    manager: ManagerClient, durability: DurabilityName
):
    run = await manager.dispatch(Ping(), durability=durability, events=False)
    assert (await run.cancel()).status == "cancelled"


async def test_two_readers_follow_a_run_while_it_goes_on(manager: ManagerClient, tmp_path: Path):
    gate = tmp_path / "gate"
    run = await manager.dispatch(Started(number=1, gate=str(gate)))
    first, second = run.events(), run.events()
    assert [type(await anext(first)), type(await anext(second))] == [Started, Started]
    assert run.status == "running"
    gate.touch()
    for reader in (first, second):
        assert {type(event) async for event in reader} == {Left, Right, Summed}


async def test_runs_survive_a_host_that_is_killed_or_end_with_its_error(
    manager: ManagerClient, tmp_path: Path
):
    gate = tmp_path / "gate"
    hosts = await until_complete(manager)
    events = [Started(number=n, gate=str(gate)) for n in range(32)]
    kept = [await manager.dispatch(event) for event in events]
    loose = [await manager.dispatch(event, durability="none") for event in events]
    victim = next(iter(hosts))
    os.kill(hosts[victim], signal.SIGKILL)

    async def replaced() -> bool:
        live = await live_hosts(manager)
        return len(live) == len(hosts) and victim not in live

    await eventually_async(replaced, timeout_s=90)
    gate.touch()
    results = await asyncio.gather(*(run.result(Summed, timeout=90) for run in kept))
    assert [result.number for result in results] == [2 * n for n in range(32)]
    for n, run in enumerate(loose):
        ended = await run.wait(timeout=90)
        if ended.status == "succeeded":
            assert ended.result == {"number": 2 * n}
        else:
            assert ended.error is not None
            assert ended.error.type in {"HostDied", "AgentMoved"}


def test_a_program_that_does_not_await_dispatches(cluster: Cluster):
    with agentray.connect(settings=cluster.settings) as manager:
        run = manager.dispatch(Started(number=21))
        assert run.result(Summed, timeout=60).number == 42
        assert len(list(run.events())) == 4
        assert manager.wait_idle(60)


async def test_idle_dispatch_is_quick(manager: ManagerClient):
    for durability in get_args(DurabilityName):
        took: list[float] = []
        for n in range(50):
            start = time.perf_counter()
            run = await manager.dispatch(Started(number=n), durability=durability)
            await run.result(timeout=60)
            took.append(time.perf_counter() - start)
        print(f"{durability}: p50 {statistics.median(took) * 1000:.2f} ms")  # noqa: T201
        assert statistics.median(took) < 1.0
