"""The gateway of a cluster, deployed anew with other settings, as Serve takes it."""

from __future__ import annotations

import asyncio

import psutil

from agentray.store.embedded import EmbeddedPostgres
from tests.support.cluster import Cluster
from tests.support.eventually import eventually_async

_REPLICA = "ray::ServeReplica:agentray:gateway"

_DEPLOY = """
import sys
import agentray
from agentray.gateway.deployment import start_gateway

with agentray.connect():
    start_gateway(agentray.Settings(), sys.argv[1])
"""


async def deploy_gateway(cluster: Cluster, **settings: str) -> None:
    """Give the gateway other settings; its replicas are replaced, each when its successor is up."""
    url = EmbeddedPostgres(cluster.settings.postgres_dir).url
    done = await asyncio.to_thread(cluster.python, "-c", _DEPLOY, url, cwd=None, **settings)
    assert done.exit_code == 0, done


def replicas(cluster: Cluster) -> dict[int, psutil.Process]:
    """Return the processes of the gateway's replicas by their ids."""
    return {process.pid: process for process in cluster.processes(_REPLICA)}


async def until_replicas(
    cluster: Cluster, count: int, *, without: set[int] | None = None, timeout_s: float = 120.0
) -> dict[int, psutil.Process]:
    """Wait until there are that many, and none of those that shall be gone."""

    async def there() -> dict[int, psutil.Process] | None:
        found = await asyncio.to_thread(replicas, cluster)
        return found if len(found) == count and not (without or set()) & found.keys() else None

    found = await eventually_async(there, timeout_s=timeout_s, interval_s=0.2)
    assert found is not None
    return found
