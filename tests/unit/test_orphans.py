"""What is left over is found and ended; what may be somebody else's is not touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentray import Agent, App, action
from agentray.core.orphans import KnownHost, Orphan, actor_name, orphans
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.snapshot import HostRef
from agentray.runtime.marked_processes import HOME, MARK, homeless, marked, new_mark, stop_marked
from agentray.store.base import HostRow
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually

OURS = "cluster_1"


def known(host_id: str, *, dead: bool = False) -> KnownHost:
    return KnownHost(host_id, actor_name(host_id, OURS), dead, "killed" if dead else "")


class TestDecision:
    def test_nothing_is_left_over_where_each_actor_has_its_row_and_its_keeper(self) -> None:
        hosts = [known("host_1"), known("host_2")]
        actors = [host.actor_name for host in hosts]
        assert orphans(actors, hosts, {"host_1", "host_2"}, OURS) == []

    def test_an_actor_that_the_store_does_not_know_is_left_over(self) -> None:
        name = actor_name("host_9", OURS)
        assert orphans([name], [], set(), OURS) == [
            Orphan("actor", name, "no host in the Store has this actor")
        ]

    def test_an_actor_whose_row_is_dead_is_left_over(self) -> None:
        dead = known("host_1", dead=True)
        assert orphans([dead.actor_name], [dead], set(), OURS) == [
            Orphan("actor", dead.actor_name, "its host is dead: killed")
        ]

    def test_a_row_that_nobody_supervises_is_left_over(self) -> None:
        (found,) = orphans([], [known("host_1"), known("host_2")], {"host_2"}, OURS)
        assert (found.kind, found.name) == ("row", "host_1")

    @pytest.mark.parametrize(
        "name",
        [
            actor_name("host_9", "cluster_2"),
            "agentray-manager",
            "agentray-host_9",
            "somebody@cluster_1",
            "",
        ],
    )
    def test_what_is_not_marked_as_this_clusters_is_not_touched(self, name: str) -> None:
        assert orphans([name], [], set(), OURS) == []


class Echo(Agent):
    @action
    async def echo(self, value: int) -> int:
        return value


def test_orphans_are_found_and_ended_and_a_dry_run_changes_nothing() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(App("echo", [Echo]))
            hosts = set(runtime.hosts)
            lead, _ = await runtime.store.read_lead()
            assert lead is not None
            # A host of a life before this one, one of another cluster, and a row without a host.
            lost = HostRef("host_lost", actor_name("host_lost", lead.cluster))
            foreign = HostRef("host_foreign", actor_name("host_foreign", "cluster_other"))
            for ref in (lost, foreign):
                await runtime.network.create(ref, PoolSpec("default", 1))
            await runtime.store.put_host(HostRow("host_row", "default", "agentray-row", "live"))

            told = await manager.gc(dry_run=True)
            assert {(o["kind"], o["name"]) for o in told} == {
                ("actor", lost.actor_name),
                ("row", "host_row"),
            }
            assert set(runtime.hosts) == hosts | {"host_lost", "host_foreign"}
            assert await manager.gc(dry_run=True) == told
            assert await manager.gc() == told
            assert set(runtime.hosts) == hosts | {"host_foreign"}
            assert {row.id for row in await runtime.store.list_hosts()} == hosts
            assert await manager.gc() == []
            assert await manager.handle(Echo, "a").echo(1) == 1
            runtime.network.kill(foreign)

    run(scenario())


def test_the_manager_ends_orphans_by_itself() -> None:
    async def scenario() -> None:
        import asyncio

        from agentray.runtime.orphanage import SWEEP_S

        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(App("echo", [Echo]))
            hosts = set(runtime.hosts)
            lead, _ = await runtime.store.read_lead()
            assert lead is not None
            lost = HostRef("host_lost", actor_name("host_lost", lead.cluster))
            await runtime.network.create(lost, PoolSpec("default", 1))
            await asyncio.sleep(SWEEP_S + 2)
            assert set(runtime.hosts) == hosts

    run(scenario())


def sleeper(mark: str, home: Path) -> subprocess.Popen[bytes]:
    code = "import time; time.sleep(600)"
    env = {**os.environ, MARK: mark, HOME: str(home)}
    return subprocess.Popen([sys.executable, "-c", code], env=env)


def test_processes_of_a_cluster_are_left_over_when_its_home_is_gone(tmp_path: Path) -> None:
    marks, homes = [new_mark(), new_mark()], [tmp_path / "gone", tmp_path / "there"]
    for home in homes:
        home.mkdir()
    processes = [sleeper(mark, home) for mark, home in zip(marks, homes, strict=True)]
    try:
        eventually(lambda: all(marked(mark) for mark in marks))
        assert not {*marks} & {*homeless()}
        shutil.rmtree(homes[0])
        found = homeless()
        assert found[marks[0]] == str(homes[0])
        assert marks[1] not in found
        stop_marked(marks[0], 5.0)
        assert not marked(marks[0])
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
