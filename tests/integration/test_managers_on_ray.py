"""The manager on a real cluster: one too many, and none any more."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayActorError

from agentray import ManagerClient, RunStatus
from agentray.errors import ManagerSuperseded
from agentray.protocol.codec import encode
from agentray.runtime.ray_adapter import Setup
from agentray.runtime.ray_adapter.manager_actor import ManagerActor
from agentray.runtime.ray_adapter.ray_manager import MANAGER_NAME
from agentray.runtime.ray_adapter.setup import NAMESPACE
from agentray.store.embedded import EmbeddedPostgres
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually, eventually_async

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]

# Ray's annotations know nothing of actors.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false


async def test_a_second_manager_says_that_another_one_works_and_ends(
    cluster: Cluster, manager: ManagerClient
) -> None:
    hosts = await until_complete(manager)
    before = await manager.status()
    setup = Setup(EmbeddedPostgres(cluster.settings.postgres_dir).url, default_hosts=3)
    second: Any = (
        ray.remote(ManagerActor)
        .options(name="second", namespace=NAMESPACE, num_cpus=0, max_restarts=-1)
        .remote(encode(setup))
    )
    # Both at once: it ends soon.
    refused = await asyncio.gather(
        second.ready.remote(), second.status.remote(), return_exceptions=True
    )
    for told in refused:
        assert isinstance(told, ManagerSuperseded), told
        assert f"{MANAGER_NAME} (process {before['pid']})" in str(told)

    async def ended() -> bool:
        try:
            await second.alive.remote()
        except RayActorError:
            return True
        return False

    await eventually_async(ended, timeout_s=60)
    after = await manager.status()
    assert after["pid"] == before["pid"]
    assert await until_complete(manager) == hosts
    assert cluster.logged("manager_yields")


async def test_a_manager_that_was_ended_for_good_is_made_anew_and_fails_over_what_died_meanwhile(
    cluster: Cluster, manager: ManagerClient
) -> None:
    before = await until_complete(manager)
    ended: int = (await manager.status())["pid"]
    ray.kill(ray.get_actor(MANAGER_NAME, NAMESPACE), no_restart=True)
    victim, survivor = before.values()
    os.kill(victim, signal.SIGKILL)
    async with cluster.client() as client:
        # Half of them are for agents whose host is dead, which nobody but a manager can tell.
        prompts = [client.prompt(str(n), "parrot", wait_s=90) for n in range(8)]
        runs = await asyncio.gather(*prompts)
    assert [(run.status, run.result) for run in runs] == [
        (RunStatus.SUCCEEDED, {"text": str(n)}) for n in range(8)
    ]
    after = await until_complete(manager, without=[victim])
    assert survivor in after.values(), "adopted as it was"
    assert (await manager.status())["pid"] != ended
    await asyncio.to_thread(eventually, lambda: not psutil.pid_exists(ended))
    assert cluster.logged("manager_made_anew")
