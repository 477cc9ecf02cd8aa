"""Processes are killed under load: every run ends once, with its own answer."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from agentray import AgentrayError, ManagerClient, Run, RunStatus
from agentray.client import AsyncAgentClient
from tests.support.cluster import RIVER, Cluster, live_hosts, until_complete
from tests.support.eventually import eventually, eventually_async
from tests.support.web import Web

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]

_TERMINAL = {"succeeded", "failed", "dead"}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def check_story(client: AsyncAgentClient, run: Run) -> list[str]:
    """Check that a run's events are gap-free with one end; return the hosts of its attempts."""
    events = [event async for event in client.events(run.id)]
    assert [event.offset for event in events] == list(range(len(events)))
    assert [e.kind for e in events if e.kind in _TERMINAL] == [run.status.value]
    assert events[-1].kind == run.status.value
    return [event.data["host"] for event in events if event.kind == "started"]


async def test_runs_of_a_killed_host_end_once_on_another_one(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    before = await until_complete(manager)
    gates = [tmp_path / "at-once", tmp_path / "when-whole"]
    async with cluster.client() as client:

        async def all_running() -> bool:
            page = await client.runs(limit=200, agent="waiter", status=RunStatus.RUNNING)
            return len(page.runs) == 20

        prompts = [
            asyncio.create_task(client.prompt(f"{gates[n % 2]} {n}", "waiter", wait_s=200))
            for n in range(20)
        ]
        await eventually_async(all_running, timeout_s=60)
        victim, pid = next(iter(before.items()))
        kill(pid)
        gates[0].touch()
        after = await until_complete(manager, without=[pid], settled=False)
        gates[1].touch()
        runs = await asyncio.gather(*prompts)

        assert len(after) == 2
        assert victim not in after
        for n, run in enumerate(runs):
            assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": str(n)}), run
            assert await client.run(run.id) == run  # as the Store has it
        assert len({run.id for run in runs}) == 20
        stories = {run.id: await check_story(client, run) for run in runs}
    struck = [run for run in runs if stories[run.id][0] == victim]
    assert struck  # the victim had some of them
    assert all(run.attempt > 1 and stories[run.id][-1] != victim for run in struck)


async def test_prompts_go_on_without_the_manager_which_adopts_the_hosts_when_it_is_back(
    cluster: Cluster, manager: ManagerClient
):
    hosts = await until_complete(manager)
    killed: int = (await manager.status())["pid"]
    back = asyncio.Event()

    async def prompt_on_and_on(client: AsyncAgentClient, number: int) -> list[Run]:
        runs: list[Run] = []
        while not back.is_set() or not runs:
            text = f"{number}-{len(runs)}"
            run = await client.prompt(text, "parrot", wait_s=60)
            assert (run.status, run.result, run.attempt) == ("succeeded", {"text": text}, 1)
            runs.append(run)
        return runs

    async def is_back() -> bool:
        if await live_hosts(manager) != hosts:
            return False
        try:
            return (await manager.status())["pid"] != killed
        except AgentrayError:
            return False

    async with cluster.client() as client, asyncio.TaskGroup() as group:
        kill(killed)
        workers = [group.create_task(prompt_on_and_on(client, n)) for n in range(4)]
        driven = await manager.prompt(RIVER, timeout=60)  # a driver's prompt needs it as little
        assert driven.status is RunStatus.SUCCEEDED
        await eventually_async(is_back, timeout_s=90)
        back.set()
    assert all(worker.result() for worker in workers)
    assert all(psutil.Process(pid).is_running() for pid in hosts.values())
    assert await live_hosts(manager) == hosts
    # And it supervises again: what it is asked to start, it starts.
    async with cluster.client() as client:
        assert (await client.prompt("Ada", "parrot", wait_s=60)).result == {"text": "Ada"}


async def test_a_manager_that_hangs_is_replaced_and_fails_over_what_died_meanwhile(
    cluster: Cluster, manager: ManagerClient
):
    before = await until_complete(manager)
    hung: int = (await manager.status())["pid"]
    process = psutil.Process(hung)
    os.kill(hung, signal.SIGSTOP)
    try:
        victim, survivor = before.values()
        kill(victim)
        async with cluster.client() as client:
            # Half of them are for agents whose host is dead, which nobody but a manager can tell.
            prompts = [client.prompt(str(n), "parrot", wait_s=90) for n in range(8)]
            runs = await asyncio.gather(*prompts)
        assert [(run.status, run.result) for run in runs] == [
            (RunStatus.SUCCEEDED, {"text": str(n)}) for n in range(8)
        ]
        after = await until_complete(manager, without=[victim])
        assert survivor in after.values(), "adopted as it was"
        assert (await manager.status())["pid"] != hung
        await asyncio.to_thread(eventually, lambda: not process.is_running())
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


async def test_runs_outlive_the_gateway_replica_that_took_them(cluster: Cluster, tmp_path: Path):
    gate = tmp_path / "gate"
    [replica] = cluster.processes("ray::ServeReplica:agentray:gateway")
    async with cluster.client() as client, aiohttp.ClientSession() as session:
        web = Web(cluster.url, cluster.key, session)
        accepted = await web.prompt(f"{gate} accepted", agent="waiter", wait_s=0)
        assert accepted.status == 202
        patient = asyncio.create_task(client.prompt(f"{gate} patient", "waiter", wait_s=200))

        async def both_running() -> bool:
            page = await client.runs(agent="waiter", status=RunStatus.RUNNING)
            return len(page.runs) == 2

        await eventually_async(both_running, timeout_s=60)
        kill(replica.pid)

        async def is_back() -> bool:
            replicas = cluster.processes("ray::ServeReplica:agentray:gateway")
            if not replicas or replica.pid in {process.pid for process in replicas}:
                return False
            try:
                async with session.get(f"{cluster.url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually_async(is_back, timeout_s=120, interval_s=0.2)
        gate.touch()
        ended = await client.run(accepted.body["id"], wait_s=60)
        assert (ended.status, ended.result, ended.attempt) == (
            RunStatus.SUCCEEDED,
            {"text": "accepted"},
            1,
        )
        # Who waited gets the answer of the same run, and not a second one.
        answered = await patient
        assert (answered.status, answered.result) == (RunStatus.SUCCEEDED, {"text": "patient"})
        newest = await client.runs(agent="waiter", limit=2)
        assert {run.id for run in newest.runs} == {ended.id, answered.id}
        for run in (ended, answered):
            await check_story(client, run)
