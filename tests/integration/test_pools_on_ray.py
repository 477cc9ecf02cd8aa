"""Pools on a real cluster: processes of their own, resources, packed code, and waiting for room."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import ray

from agentray import (
    Agent,
    AgentOptions,
    App,
    ManagerClient,
    Overloaded,
    Pool,
    PoolPending,
    UnknownAgentType,
    action,
)
from agentray.cli.exits import ExitCode
from agentray.errors import AgentrayError, StartFailed
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually, eventually_async

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]

MEMORY = 64 * 2**20
HEAD = "node:__internal_head__"
"""A resource that every cluster of Ray has, once."""


class Aside(Agent):
    """Found by the hosts under its module's name."""

    options = AgentOptions(pool="aside")

    @action
    async def process(self) -> int:
        return os.getpid()


class Placed(Agent):
    """Lives where it is launched."""

    @action
    async def process(self) -> int:
        return os.getpid()


class OnGpu(Agent):
    options = AgentOptions(pool="gpu")

    @action
    async def work(self) -> str:
        return "worked"


class Alone(Agent):
    options = AgentOptions(pool="cells")

    @action(idempotent=True)
    async def process(self) -> int:
        return os.getpid()

    @action
    async def ask(self, other: str) -> int:
        return await self.handle(Alone, other).process()

    @action
    def block(self, begun: Path) -> None:
        begun.touch()
        threading.Event().wait(120)  # the event loop, which nothing can cancel


@asynccontextmanager
async def removed_afterwards(manager: ManagerClient, app: str, pool: str) -> AsyncGenerator[None]:
    """Leave the cluster as the other tests want it."""
    try:
        yield
    finally:
        if any(row["name"] == app for row in (await manager.status())["apps"]):
            await manager.stop(app)
        if any(row["name"] == pool for row in await manager.pools()):
            await manager.remove_pool(pool)


async def test_an_added_pool_has_a_process_and_resources_of_its_own_until_it_is_removed(
    manager: ManagerClient,
):
    others = await until_complete(manager)
    free = ray.available_resources()["memory"]
    head, licence = ray.available_resources()[HEAD], {HEAD: 0.25}
    added = await manager.add_pool(
        "aside", hosts=1, memory=MEMORY, resources=licence, placement="spread"
    )
    assert (added["status"], added["hosts"]) == ("live", 1)
    assert added["resources"] == {"memory": MEMORY, **licence}
    eventually(lambda: ray.available_resources()["memory"] == free - MEMORY)
    eventually(lambda: ray.available_resources()[HEAD] == head - 0.25)
    await manager.deploy(App("aside_app", [Aside], pools=["aside"]))
    processes = {await manager.handle(Aside, f"{n}").process() for n in range(8)}
    (process,) = processes
    assert process not in others.values()
    # A class that names no pool is launched into it.
    assert await (await manager.launch(Placed, pool="aside")).process() == process
    assert await manager.handle(Placed, "another").process() == process

    for app in ("aside_app", "placed"):
        await manager.stop(app)
    await manager.remove_pool("aside")
    eventually(lambda: not psutil.pid_exists(process))
    eventually(lambda: ray.available_resources()["memory"] == free)
    assert set((await until_complete(manager)).values()) == set(others.values())


async def test_a_pool_that_ray_cannot_place_is_pending_and_says_why(
    manager: ManagerClient, cluster: Cluster
):
    added = await manager.add_pool("huge", hosts=1, num_cpus=1000)
    try:
        assert added["status"] == "pending"
        assert added["pending"].startswith("a host needs 1000 CPU, and the largest machine has ")
        (host,) = [h for h in (await manager.status())["hosts"] if h["pool"] == "huge"]
        assert (host["status"], host["pending"]) == ("pending", added["pending"])
        shown = cluster.agentray("status")
        assert "a host needs 1000 CPU" in " ".join(shown.stdout.split()), shown
    finally:
        await manager.remove_pool("huge")
    assert all(h["pool"] != "huge" for h in (await manager.status())["hosts"])
    await until_complete(manager)


async def test_calls_to_a_pending_pool_fail_at_once_with_the_reason(manager: ManagerClient):
    app = App("gpu_app", [OnGpu], pools=[Pool("gpu", hosts=1, num_gpus=1)])
    with pytest.raises(PoolPending, match=r"needs 1 GPU, and no machine has GPU"):
        await manager.deploy(app, pending_timeout=1)
    async with removed_afterwards(manager, "gpu_app", "gpu"):
        with pytest.raises(PoolPending, match=r"on_gpu/x is pending: the pool 'gpu' has no host"):
            await manager.handle(OnGpu, "x").work()
        # An operator decides that it need not be a GPU.
        await manager.add_pool("gpu", hosts=1)
        assert await manager.handle(OnGpu, "x").work() == "worked"


async def test_a_pool_brings_the_code_of_its_agents_along(manager: ManagerClient, tmp_path: Path):
    source = tmp_path / "source"
    (source / "packed_agents").mkdir(parents=True)
    (source / "packed_agents" / "__init__.py").write_text(
        "import os, agentray\n"
        "class Packed(agentray.Agent):\n"
        "    options = agentray.AgentOptions(pool='packed')\n"
        "    @agentray.action(idempotent=True)\n"
        "    async def where(self):\n"
        "        return __file__, os.environ['PACKED'], os.getpid()\n"
    )
    sys.path.insert(0, str(source))
    try:
        packed = importlib.import_module("packed_agents").Packed
    finally:
        sys.path.remove(str(source))
    env = {"working_dir": source, "env_vars": {"PACKED": "yes"}}
    pool = Pool("packed", hosts=1, runtime_env=env)
    assert await manager.deploy(App("packed_app", [packed], pools=[pool])) == "added"
    async with removed_afterwards(manager, "packed_app", "packed"):
        agent = manager.handle(packed, "x")
        file, variable, process = await agent.where()
        assert variable == "yes"
        assert "_ray_pkg_" in file
        assert str(source) not in file

        # The directory goes, and the only process that had its code.
        (source / "packed_agents" / "__init__.py").unlink()
        os.kill(process, signal.SIGKILL)
        await until_complete(manager, without=[process])
        file, _, successor = await agent.where()
        assert "_ray_pkg_" in file
        assert successor != process
        # Removed, the app is gone, and its code with its process.
        await manager.remove_app("packed_app")
        with pytest.raises(UnknownAgentType):
            await agent.where()
        assert all(pool["name"] != "packed" for pool in await manager.pools())
        eventually(lambda: not psutil.pid_exists(successor), timeout_s=30)
    del sys.modules["packed_agents"]


SCRIPT = """
import asyncio, os, agentray

class Written(agentray.Agent):
    options = agentray.AgentOptions(pool="written")

    @agentray.action
    async def told(self):
        return __name__, os.environ["TOLD"], os.getpid()

async def main():
    async with agentray.connect() as manager:
        pool = agentray.Pool("written", hosts=1, runtime_env={"env_vars": {"TOLD": "by value"}})
        await manager.deploy(agentray.App("written_app", [Written], pools=[pool]))
        name, told, process = await manager.handle(Written, "x").told()
        assert (name, told) == ("__main__", "by value"), (name, told)
        assert process != os.getpid()
        await manager.stop("written_app")
        await manager.remove_pool("written")
        print("done")

asyncio.run(main())
"""


async def test_agents_of_a_script_reach_the_hosts_of_a_pool_by_value(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = cluster.python(str(script))
    assert (done.exit_code, done.stdout) == (0, "done\n"), done
    await until_complete(manager)


async def test_a_pool_that_cannot_be_prepared_fails_with_rays_reason(
    manager: ManagerClient, tmp_path: Path
):
    (tmp_path / "broken.zip").write_bytes(b"this is no archive")
    env = {"working_dir": tmp_path / "broken.zip"}
    with pytest.raises(StartFailed, match="set up runtime environment"):
        await manager.add_pool("broken", hosts=1, runtime_env=env)
    assert all(row["name"] != "broken" for row in await manager.pools())

    async def gone() -> bool:
        return all(h["pool"] != "broken" for h in (await manager.status())["hosts"])

    await eventually_async(gone, timeout_s=60)


async def test_the_commands_add_show_and_remove_a_pool(cluster: Cluster, manager: ManagerClient):
    added = cluster.agentray("pool", "add", "typed", "--hosts", "1-3", "--memory", str(MEMORY))
    assert added.exit_code == 0, added
    assert "1 of 1 (1 to 3)" in " ".join(added.stdout.split())
    listed = cluster.agentray("pool", "list", "--json")
    assert {row["name"] for row in json.loads(listed.stdout)} >= {"default", "typed"}
    assert cluster.agentray("pool", "remove", "typed").stdout == "typed: removed\n"
    refused = cluster.agentray("pool", "remove", "default")
    assert (refused.exit_code, refused.stdout) == (ExitCode.USAGE, "")
    assert "default" in refused.complaint
    wrong = cluster.agentray("pool", "add", "typed", "--hosts", "many")
    assert (wrong.exit_code, wrong.stdout) == (ExitCode.USAGE, "")
    await until_complete(manager)


async def test_an_isolated_agent_has_a_process_of_its_own(manager: ManagerClient, tmp_path: Path):
    others = await until_complete(manager)
    pool = Pool("cells", hosts=2, isolation="actor")
    await manager.deploy(App("alone_app", [Alone], pools=[pool]))
    async with removed_afterwards(manager, "alone_app", "cells"):
        one, two = manager.handle(Alone, "one"), manager.handle(Alone, "two")
        first, second = await one.process(), await two.process()
        assert len({first, second, *others.values()}) == len(others) + 2
        assert await one.ask("two") == second, "hosts find isolated agents, too"
        with pytest.raises(Overloaded):
            await manager.handle(Alone, "three").process()
        os.kill(first, signal.SIGKILL)
        successor = await one.process()
        assert successor not in {first, second, *others.values()}
        blocked = asyncio.create_task(two.block(tmp_path / "begun"))
        await asyncio.to_thread(eventually, (tmp_path / "begun").exists)
        begun = time.monotonic()
        await manager.shutdown(two, grace_s=0.5)
        with pytest.raises(AgentrayError):
            await blocked
        assert time.monotonic() - begun < 60, "it waited for the handler"
        await asyncio.to_thread(eventually, lambda: not psutil.pid_exists(second))
    eventually(lambda: not psutil.pid_exists(successor))
    assert set((await until_complete(manager)).values()) == set(others.values())
