"""Further nodes of the tests' cluster, on this machine: joined, killed as a whole, taken away."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agentray import ManagerClient
from agentray.runtime.local_cluster import driver_environment
from tests.support.cluster import Cluster, name_of, until_complete
from tests.support.eventually import eventually_async

SECOND = "second"
"""A resource that no other node of the cluster has."""

_PROGRAM = Path(__file__).with_name("ray_node.py")
_PATIENCE_S = 60


@dataclass(frozen=True)
class ExtraNode:
    """A node that has joined.

    Attributes:
        id: Ray's.
        raylet: its main process; all others of the node are below it.
        logs: its directory of logs, which no other node has.
    """

    id: str
    raylet: psutil.Process
    logs: Path

    def processes(self) -> list[psutil.Process]:
        """Return all that lives of it."""
        with suppress(psutil.NoSuchProcess):
            return [self.raylet, *self.raylet.children(recursive=True)]
        return []

    def kill(self) -> None:
        """Kill all of it at once, as the loss of a machine would."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _, left = psutil.wait_procs(processes, timeout=_PATIENCE_S)
        assert not left

    def leave(self) -> None:
        """Let it sign off and end."""
        processes = self.processes()
        with suppress(psutil.NoSuchProcess):
            self.raylet.terminate()
        _, left = psutil.wait_procs(processes, timeout=_PATIENCE_S)
        assert not left


@asynccontextmanager
async def extra_node(
    cluster: Cluster, manager: ManagerClient, temp_dir: Path, address: str = "127.0.0.2"
) -> AsyncGenerator[ExtraNode]:
    """Let a node with two CPUs join the cluster; afterwards it is gone, and all hosts of it.

    Args:
        cluster: which.
        manager: is asked whether it has joined.
        temp_dir: where it keeps its logs; with a short path, for there are sockets in it.
        address: its own one on the loopback interface, for Ray tells nodes apart by it.
    """
    (head,) = (p for p in cluster.processes() if name_of(p) == "raylet")
    inherited = {n: v for n, v in head.environ().items() if n.startswith(("RAY_", "AGENTRAY_"))}
    address_of_gcs = cluster.record.gcs_address
    joining = await asyncio.create_subprocess_exec(
        *(sys.executable, str(_PROGRAM), address_of_gcs, address, str(temp_dir), "2"),
        json.dumps({SECOND: 4}),
        env={**cluster.env, **inherited, **driver_environment(address_of_gcs)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, trouble = await joining.communicate()
    assert joining.returncode == 0, trouble.decode()
    about: dict[str, Any] = json.loads(told)
    node = ExtraNode(about["id"], psutil.Process(about["raylet"]), Path(about["logs"]))
    try:
        await eventually_async(lambda: _known(manager, node.id), timeout_s=_PATIENCE_S)
        yield node
    finally:
        node.leave()
    await eventually_async(lambda: _unused(manager, node.id), timeout_s=_PATIENCE_S)
    await until_complete(manager)


async def _known(manager: ManagerClient, node: str) -> bool:
    return any(row["id"] == node for row in await manager.nodes())


async def _unused(manager: ManagerClient, node: str) -> bool:
    return all(host.get("node_id") != node for host in (await manager.status())["hosts"])
