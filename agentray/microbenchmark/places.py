"""Where the measured agents are: their pools and hosts, and bringing them into memory."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psutil

from agentray.app import App
from agentray.errors import ConfigurationError
from agentray.microbenchmark.agents import Peer
from agentray.runtime.manager_client import ManagerClient

_KEYS = 512  # enough for each of two hosts to have many
_ACTIVATED_AT_ONCE = 1024


@asynccontextmanager
async def deployed(
    manager: ManagerClient, app: App, pools: Mapping[str, int]
) -> AsyncGenerator[None]:
    """Deploy an app on new hosts, and remove both afterwards.

    Args:
        manager: of the cluster.
        app: whose agents live in these pools.
        pools: how many hosts each has.
    """
    await _remove(manager, app, pools)  # what a run has left that was killed
    try:
        for name, hosts in pools.items():
            await manager.add_pool(name, hosts=hosts)
        await manager.deploy(app)
        yield
    finally:
        await _remove(manager, app, pools)


async def _remove(manager: ManagerClient, app: App, pools: Mapping[str, int]) -> None:
    status = await manager.status()
    if any(known["name"] == app.name for known in status["apps"]):
        await manager.stop(app.name)
    for pool in status["pools"]:
        if pool["name"] in pools:
            await manager.remove_pool(pool["name"])


async def peers_of_two_hosts(manager: ManagerClient) -> tuple[list[str], list[str]]:
    """Return keys of peers that live on one host, and of peers on another.

    Raises:
        ConfigurationError: all live on one host.
    """
    keys = [f"peer-{number}" for number in range(_KEYS)]
    processes = await asyncio.gather(*(manager.handle(Peer, key).process() for key in keys))
    by_process: defaultdict[int, list[str]] = defaultdict(list)
    for key, process in zip(keys, processes, strict=True):
        by_process[process].append(key)
    if len(by_process) < 2:
        raise ConfigurationError(
            "All agents live on one host: its pool has lost the other. See `agentray status`."
        )
    here, there, *_ = by_process.values()
    return here, there


async def activate(handles: Iterable[Any]) -> float:
    """Call agents with an action `echo` once; return agents per second."""
    left = iter(handles)
    done = 0

    async def caller() -> None:
        nonlocal done
        for handle in left:
            await handle.echo(1)
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_ACTIVATED_AT_ONCE)))
    return done / (time.perf_counter() - begun)


async def host_bytes(manager: ManagerClient, pool: str) -> int:
    """Return the private memory (USS) of a pool's hosts."""
    hosts = (await manager.status())["hosts"]
    return sum(
        psutil.Process(host["pid"]).memory_full_info().uss for host in hosts if host["pool"] == pool
    )
