"""A cluster of two nodes: hosts are packed and spread, leave a node, and survive its loss."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    App,
    HostDied,
    ManagerClient,
    Pool,
    Prompt,
    Run,
    TerminateEvent,
    action,
    on,
)
from agentray.errors import StartFailed
from tests.support.cluster import Cluster, files_below, until_complete
from tests.support.eventually import eventually_async
from tests.support.gateway import Http, Json
from tests.support.nodes import SECOND, ExtraNode, extra_node
from tests.support.tails import Rebuilt, tail
from tests.support.work import Work

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


class Told(TerminateEvent):
    text: str


class Tally(BaseModel):
    total: int = 0


class Roamer(Agent):
    """Counts, answers, and waits for a file where a prompt names one."""

    options = AgentOptions(pool="roaming")
    state: Tally

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total

    @action
    async def wait(self) -> None:
        await asyncio.Event().wait()

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> Told:
        gate = Path(prompt.text)
        while gate.is_absolute() and not await self.run_sync(gate.exists):  # noqa: ASYNC110 - a test makes it
            await asyncio.sleep(0.05)
        other = self.handle(Roamer, f"{self.id.key}-other")
        return Told(text=f"{prompt.text} {await other.add(1)}")


class Newcomer(Agent):
    options = AgentOptions(pool="roaming")


def ill() -> None:
    raise RuntimeError("the new model file is missing")


def roaming(*more: type[Agent], **options: Any) -> App:
    pool = Pool("roaming", hosts=2, placement="spread", grace_s=20)
    return App("roaming", [Roamer, *more], pools=[pool], **options)


@pytest.fixture(scope="module")
async def node(cluster: Cluster, manager: ManagerClient) -> AsyncGenerator[ExtraNode]:
    """The second node of the cluster, for the tests of this module."""
    temp_dir = Path(tempfile.mkdtemp(prefix="ar-"))
    try:
        async with extra_node(cluster, manager, temp_dir) as node:
            yield node
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.fixture
async def roamers(manager: ManagerClient, node: ExtraNode) -> AsyncGenerator[str]:
    """The name of a pool with a host on each node, and agents; made anew for each test."""
    await manager.deploy(roaming())
    await until_complete(manager)
    assert await nodes_of(manager, "roaming") == {node.id: 1, await head(manager, node): 1}
    yield "roaming"
    await manager.remove_app("roaming")
    if "roaming" in {pool["name"] for pool in await manager.pools()}:
        await manager.remove_pool("roaming")  # with its hosts, however they have come to lie


async def hosts_of(manager: ManagerClient, pool: str) -> list[dict[str, Any]]:
    return [h for h in (await manager.status())["hosts"] if h["pool"] == pool]


async def nodes_of(manager: ManagerClient, pool: str) -> dict[str, int]:
    """Return how many hosts of a pool are on which node, without those that leave."""
    live = [h for h in await hosts_of(manager, pool) if h["status"] == "live"]
    return dict(Counter(h["node_id"] for h in live))


async def head(manager: ManagerClient, node: ExtraNode) -> str:
    (found,) = [row["id"] for row in await manager.nodes() if row["id"] != node.id]
    return found


async def places(manager: ManagerClient, pools: Iterable[str]) -> dict[str, list[int]]:
    """Return how the hosts of pools are divided among machines."""
    return {pool: sorted((await nodes_of(manager, pool)).values()) for pool in pools}


async def test_pools_are_packed_and_spread_over_nodes_also_after_deaths(
    manager: ManagerClient, node: ExtraNode
) -> None:
    pools = ("packed", "spread")
    try:
        await asyncio.gather(
            manager.add_pool("packed", hosts=2, placement="pack"),
            manager.add_pool("spread", hosts=2, placement="spread"),
        )
        await until_complete(manager)
        assert await places(manager, pools) == {"packed": [2], "spread": [1, 1]}
        # Of the spread ones the one on the other node dies, of the packed ones any.
        killed = [
            (await hosts_of(manager, "packed"))[0]["pid"],
            *(h["pid"] for h in await hosts_of(manager, "spread") if h["node_id"] == node.id),
        ]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await until_complete(manager, without=killed)
        assert await places(manager, pools) == {"packed": [2], "spread": [1, 1]}
    finally:
        await asyncio.gather(*(manager.remove_pool(pool) for pool in pools))


async def test_a_node_is_drained_under_load_and_nothing_is_lost_or_repeated(
    cluster: Cluster, manager: ManagerClient, node: ExtraNode, roamers: str
) -> None:
    work = Work(manager, "drain", "roamer", "hello", "roamer")
    async with work.during():
        told = await manager.drain_node(node.id[:8], timeout=60)
        assert told == {"node": node.id, "drained": True, "hosts": [], "waiting": ""}
        await until_complete(manager)
        assert await nodes_of(manager, roamers) == {await head(manager, node): 2}
        await manager.undrain_node(node.id)
    assert work.problems == [], await work.why(cluster)
    assert work.done > 50


async def test_new_code_takes_over_step_by_step_and_is_taken_back_when_it_is_ill(
    cluster: Cluster, manager: ManagerClient, node: ExtraNode, roamers: str
) -> None:
    async def hosts() -> set[str]:
        return {h["id"] for h in await hosts_of(manager, roamers) if h["status"] == "live"}

    work = Work(manager, "upgrade", "roamer", "hello", "roamer")
    async with work.during():
        old = await hosts()
        assert await manager.deploy(roaming(Newcomer)) == "replaced"
        await until_complete(manager)
        new = await hosts()
        assert not old & new
        there = {node.id: 1, await head(manager, node): 1}
        assert await nodes_of(manager, roamers) == there, (
            "a node that was drained takes hosts again"
        )
        with pytest.raises(StartFailed, match=r"not healthy.*RuntimeError: the new model file"):
            await manager.deploy(roaming(health=ill))
        await until_complete(manager)
        assert await hosts() == new, "the code that is well has stayed where it was"
        assert await manager.handle(Newcomer, "n").ping() >= 0
    assert work.problems == [], await work.why(cluster)
    assert work.done > 50


PROGRAM = """
import os, sys, time
for n in range(20000):
    print(n, "x" * (n % 50))
sys.stdout.write("half a line")
sys.stdout.flush()
time.sleep(600)
"""


class FollowedJob:
    """A job whose command runs on the second node, with two that follow its log."""

    def __init__(self, cluster: Cluster, node: ExtraNode, http: Http) -> None:
        self._key = cluster.key
        self._http = http
        self._log = node.logs / "job-driver-lost.log"
        self._first_node = cluster.record.local_cluster["session_dir"]
        self._rebuilt = {protocol: Rebuilt() for protocol in ("websocket", "http")}
        self._following: list[asyncio.Task[Rebuilt]] = []

    async def begin(self, script: Path) -> None:
        """Start it; return when those who follow have all that it has printed so far."""
        body = {"submission_id": "lost", "entrypoint": f"{sys.executable} {script}"}
        body |= {"entrypoint_resources": {SECOND: 1}}
        status, job, _ = await self._http.ask("POST", "/v1/jobs/", key=self._key, body=body)
        assert status == 201, job
        self._following = [
            asyncio.create_task(tail(self._http, protocol, "lost", rebuilt, key=self._key))
            for protocol, rebuilt in self._rebuilt.items()
        ]
        await eventually_async(self._has_all, timeout_s=60)
        assert self._other_size < 1000, "no other node has it: it was read from that node's agent"
        status, told = await self._http.get("/v1/jobs/lost/logs?tail=1", key=self._key)
        assert status == 200
        assert "half a line" in str(told)

    async def _has_all(self) -> bool:
        whole = self._log.read_bytes() if self._log.exists() else b""
        all_of_it = all(rebuilt.data == whole for rebuilt in self._rebuilt.values())
        return whole.endswith(b"half a line") and all_of_it

    @property
    def _other_size(self) -> int:
        """Bytes of a log of this name at the first node: Ray notes there that it begins."""
        files = files_below(Path(self._first_node))
        return sum(path.stat().st_size for path in files if path.name == self._log.name)

    async def check_lost(self) -> None:
        """See it end, and its log end with all that was there."""
        job = await eventually_async(self._failed, timeout_s=90)
        assert job is not None
        assert "node" in job["message"], job
        async with asyncio.timeout(60):
            await asyncio.gather(*self._following)
        for rebuilt in self._rebuilt.values():
            assert rebuilt.reason == "lost"
            assert rebuilt.data == self._log.read_bytes()

    async def _failed(self) -> Json | None:
        _, job = await self._http.get("/v1/jobs/lost", key=self._key)
        return job if job["status"] == "FAILED" else None


async def test_a_lost_node_costs_a_job_its_end_and_hosts_their_place_but_no_run(
    cluster: Cluster, manager: ManagerClient, node: ExtraNode, roamers: str, tmp_path: Path
) -> None:
    gate, script = tmp_path / "gate", tmp_path / "job.py"
    script.write_text(PROGRAM)
    keys = [f"lost-{n}" for n in range(12)]
    async with aiohttp.ClientSession() as session:
        job = FollowedJob(cluster, node, Http(cluster.url, session))
        await job.begin(script)
        assert [await manager.handle(Roamer, key).add(1) for key in keys] == [1] * 12
        there = await _on(manager, node, roamers, keys)
        assert 0 < len(there) < len(keys)
        asked = [f"{key}-other" for key in keys]
        assert [await manager.handle(Roamer, other).add(0) for other in asked] == [0] * 12
        others_there = await _on(manager, node, roamers, asked)
        lost = {h["id"] for h in await hosts_of(manager, roamers) if h["node_id"] == node.id}
        runs = [
            asyncio.create_task(manager.prompt(str(gate), agent=f"roamer/{key}", timeout=120))
            for key in keys
        ]
        calls = [asyncio.create_task(manager.handle(Roamer, f"{k}-call").wait()) for k in keys]
        await eventually_async(lambda: _under_way(manager, roamers, 12), timeout_s=30)
        node.kill()
        gate.touch()
        ended = dict(zip(keys, await asyncio.gather(*runs), strict=True))
        await _check_tried_again(cluster, ended, there, others_there)
        assert [await manager.handle(Roamer, key).add(1) for key in keys] == [2] * 12
        deaths = {d["host"]: d for d in (await manager.status())["host_deaths"]}
        assert {deaths[host]["cause"] for host in lost} == {"node lost"}
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        died = [outcome for outcome in outcomes if isinstance(outcome, HostDied)]
        assert {error.reason for error in died} == {"its node was lost"}
        await job.check_lost()
        await until_complete(manager)
        assert await nodes_of(manager, roamers) == {await head(manager, node): 2}


async def _on(manager: ManagerClient, node: ExtraNode, pool: str, keys: Sequence[str]) -> set[str]:
    """Return the agents that live on a node."""
    hosts = {h["id"] for h in await hosts_of(manager, pool) if h["node_id"] == node.id}
    return {key for key in keys if (await manager.handle(Roamer, key).status())["host"] in hosts}


async def _under_way(manager: ManagerClient, pool: str, runs: int) -> bool:
    return sum(host["runs"] for host in await hosts_of(manager, pool)) == runs


async def _check_tried_again(
    cluster: Cluster, runs: dict[str, Run], lost: set[str], others_lost: set[str]
) -> None:
    """See that all runs have succeeded, those of lost hosts in a second attempt.

    So may be one whose own host lives, but which called a lost one before anybody knew.
    """
    assert {run.status for run in runs.values()} == {"succeeded"}
    attempts = {key: run.attempt for key, run in runs.items()}
    called = {key for key in runs if key not in lost and f"{key}-other" in others_lost}
    assert {attempts.pop(key) for key in called} <= {1, 2}
    assert attempts == {key: 1 + (key in lost) for key in attempts}
    async with cluster.client() as client:
        for key in lost:
            told = [event async for event in client.events(runs[key].id)]
            assert "its node was lost" in str(told)
