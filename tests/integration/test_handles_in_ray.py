"""Handles in Ray tasks and in other Ray actors: they connect by themselves."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import ray

from agentray import Handle, ManagerClient
from tests.support.desk import AsyncUser, Desk, SyncUser, app, use
from tests.support.eventually import eventually_async

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
async def desk(manager: ManagerClient) -> AsyncIterator[Handle[Desk]]:
    await manager.deploy(app)
    yield manager.handle(Desk, "one")
    await manager.stop("desk")


def check(seen: dict[str, Any]) -> None:
    assert seen.pop("pid") != os.getpid()
    assert seen.pop("status") in ("idle", "running")
    assert seen == {
        "added": 3,
        "read": [0, 1, 2, 3, 4],
        "error": "on purpose",
        "deadline": "DeadlineExceeded",
        "described": True,
        "completed": True,
        "pinged": True,
        "connections": 1,
    }


async def ends(pid: int) -> None:
    """Check that a process ends."""

    async def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await eventually_async(ended, timeout_s=60)


async def result_of(ref: Any) -> Any:
    return await asyncio.wait_for(ref, 90)


async def test_in_tasks(desk: Handle[Desk]):
    task = ray.remote(num_cpus=0)(use)
    for _ in range(2):  # the second one may find the process and its connection
        check(await result_of(task.remote(desk)))


async def test_in_a_sync_actor_with_threads(desk: Handle[Desk]):
    worker: Any = ray.remote(num_cpus=0)(SyncUser).options(max_concurrency=4).remote()
    seen = await asyncio.gather(*(result_of(worker.use.remote(desk)) for _ in range(4)))
    pids = {one["pid"] for one in seen}
    for one in seen:
        check(one)
    del worker
    (pid,) = pids
    await ends(pid)


async def test_in_an_async_actor_on_its_own_loop(desk: Handle[Desk]):
    worker: Any = ray.remote(num_cpus=0)(AsyncUser).remote()
    seen = await result_of(worker.use.remote(desk))
    pid = seen.pop("pid")
    assert await seen.pop("handle").add(2, 2) == 4
    assert seen == {
        "added": 55,
        "read": [0, 1, 2, 3, 4],
        "error": "on purpose",
        "deadline": "DeadlineExceeded",
        "pinged": True,
        "after": (True, "idle"),
    }
    del worker
    await ends(pid)
