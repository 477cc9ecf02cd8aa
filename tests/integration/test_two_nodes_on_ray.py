"""A cluster of two nodes: hosts are packed and spread, leave a node, and survive its loss."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import pytest

from agentray import ManagerClient
from tests.support.cluster import Cluster, until_complete
from tests.support.nodes import ExtraNode, extra_node

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


@pytest.fixture(scope="module")
async def node(cluster: Cluster, manager: ManagerClient) -> AsyncGenerator[ExtraNode]:
    """The second node of the cluster, for the tests of this module."""
    temp_dir = Path(tempfile.mkdtemp(prefix="ar-"))
    try:
        async with extra_node(cluster, manager, temp_dir) as node:
            yield node
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


async def hosts_of(manager: ManagerClient, pool: str) -> list[dict[str, Any]]:
    return [h for h in (await manager.status())["hosts"] if h["pool"] == pool]


async def places(manager: ManagerClient, pools: Iterable[str]) -> dict[str, list[int]]:
    """Return how the hosts of pools are divided among machines."""
    return {
        pool: sorted(Counter(h["node_id"] for h in await hosts_of(manager, pool)).values())
        for pool in pools
    }


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
        for pool in pools:
            await manager.remove_pool(pool)
