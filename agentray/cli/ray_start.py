"""The start of the local Ray cluster, which others need not await to its end."""

from __future__ import annotations

import asyncio
import os

from agentray.config import Settings
from agentray.runtime.local_cluster import LocalCluster, start_local_cluster, stop_local_cluster
from agentray.runtime.marked_processes import HOME
from agentray.runtime.session_dirs import ray_dir

_START_S = 90.0
_STOP_S = 15.0
_LOOK_INTERVAL_S = 0.05


class RayStart:
    """`ray start` in a thread.

    It goes on for up to two seconds after the cluster can be used. Who comes from here is connected
    at once, and must still `finish` what was begun.
    """

    def __init__(self, settings: Settings, mark: str) -> None:
        self._settings = settings
        self._mark = mark
        self._begun: asyncio.Future[LocalCluster] = asyncio.get_running_loop().create_future()
        self._running: asyncio.Task[LocalCluster] = asyncio.create_task(self._run())

    async def _run(self) -> LocalCluster:
        loop = asyncio.get_running_loop()

        def begun(cluster: LocalCluster) -> None:
            loop.call_soon_threadsafe(self._begun.set_result, cluster)

        return await asyncio.to_thread(
            start_local_cluster,
            gcs_port=self._settings.gcs_port,
            dashboard_port=self._settings.dashboard_port,
            temp_dir=ray_dir(self._settings.home),
            num_cpus=None,
            env={**os.environ, HOME: str(self._settings.home)},
            timeout_s=_START_S,
            mark=self._mark,
            on_begun=begun,
        )

    async def connect(self) -> LocalCluster:
        """Connect this process as soon as the cluster's node is there.

        Raises:
            LocalClusterError: the cluster did not start; nothing of it is left.
            ClusterNotRunning: it cannot be connected to.
        """
        from agentray.runtime import ray_adapter

        await asyncio.wait([self._begun, self._running], return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.done():
            await self._running  # it has failed
        cluster = self._begun.result()
        lookout = ray_adapter.NodeLookout(cluster.gcs_address)
        while not (self._running.done() or await asyncio.to_thread(lookout.has_node)):
            await asyncio.wait([self._running], timeout=_LOOK_INTERVAL_S)
        if self._running.done():
            self._running.result()  # raises what made it fail
        ray_adapter.connect_to_ray(cluster.gcs_address)
        return cluster

    async def finish(self) -> None:
        """Wait until `ray start` has ended.

        Raises:
            LocalClusterError: it failed after all; nothing of the cluster is left.
        """
        await self._running

    async def undo(self) -> None:
        """Stop what was started, also when that is not complete yet."""
        await asyncio.wait([self._running])
        if self._running.exception() is None:
            await asyncio.to_thread(stop_local_cluster, self._running.result(), _STOP_S)
