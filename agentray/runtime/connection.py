"""Connecting a driver: `async with agentray.connect() as manager`, or `with`."""

from __future__ import annotations

import asyncio
import os
import socket
from types import TracebackType

from agentray import telemetry
from agentray.config import ClusterRecord, Settings
from agentray.context import bind_process, connect_unbound_by, release_process
from agentray.errors import ClusterNotRunning, ConfigurationError
from agentray.runtime.channel import Channel
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.sync_manager import SyncContext
from agentray.runtime.watcher import SnapshotWatcher
from agentray.runtime.worker_connection import worker_caller

connect_unbound_by(worker_caller)


class Connection(SyncContext):
    """A context manager that connects, and disconnects again; asynchronous, or blocking."""

    def __init__(self, address: str | None, settings: Settings | None) -> None:
        self._address = address
        self._settings = settings
        self._owns_ray = False
        self._channel: Channel | None = None
        self._watcher: SnapshotWatcher | None = None
        self._client: ManagerClient | None = None

    async def __aenter__(self) -> ManagerClient:
        settings = self._settings or Settings()
        address = self._address or find_cluster(settings)
        check_answers(address)
        _prepare_environment(address)
        from agentray.runtime import ray_adapter  # imports ray: seconds, and only needed here

        if not ray_adapter.is_connected():
            ray_adapter.connect_to_ray(address)
            self._owns_ray = True
        try:
            manager = await asyncio.to_thread(ray_adapter.RayManager.find)
            telemetry.start(f"driver-{os.getpid()}")
            self._channel = Channel(ray_adapter.RayConnector(), batch=settings.batch)
            self._watcher = SnapshotWatcher(manager, self._channel)
            await self._watcher.start()
        except BaseException:
            await self._close()
            raise
        bind_process(self._channel)
        self._client = ManagerClient(manager, self._channel)
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        from agentray.runtime import ray_adapter

        try:
            if self._client is not None:
                await self._client.close()
        finally:
            if self._channel is not None:
                release_process(self._channel)
            if self._watcher is not None:
                await self._watcher.close()
            if self._channel is not None:
                await self._channel.close()
            if self._owns_ray:
                ray_adapter.disconnect_from_ray()


def connect(address: str | None = None, *, settings: Settings | None = None) -> Connection:
    """Connect to a running cluster: `async with agentray.connect() as manager: ...`.

    Where nothing awaits, as in scripts and notebooks: `with agentray.connect() as manager: ...`.

    Args:
        address: `host:port` of Ray's GCS. None: inside of a Ray job its own cluster, elsewhere the
            one that `agentray up` started on this machine.
        settings: where this machine's cluster record is, and the limits of batches; None: from the
            environment.

    Returns:
        A context manager that gives a `ManagerClient`, or by `with` a `SyncManager`, which has
        the same methods and blocks. Entering it raises `ClusterNotRunning` where there is nothing
        to connect to; a cluster is never started.
    """
    return Connection(address, settings)


def find_cluster(settings: Settings) -> str:
    """Return the address of the cluster to use.

    Raises:
        ClusterNotRunning: there is none.
        ConfigurationError: `RAY_ADDRESS` is of a form that drivers cannot use.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise ConfigurationError(
            "RAY_ADDRESS is a Ray Client address (ray://…). Run the driver on the cluster, or "
            "submit it with `ray job submit`."
        )
    if address and not address.startswith("http"):
        return address
    record = ClusterRecord.read(settings)
    if record is None:
        raise ClusterNotRunning
    return record.gcs_address


def check_answers(address: str) -> None:
    """Make sure that something listens at a cluster's address; Ray itself would try for minutes.

    Args:
        address: `host:port`; `auto`, which only Ray can resolve, passes.

    Raises:
        ClusterNotRunning: nothing does.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        raise ClusterNotRunning(
            f"No cluster answers at {address}. Start one with `agentray up MODULE:APP`."
        ) from error


def _prepare_environment(address: str) -> None:
    """Set what Ray reads when it is imported, unless the user has set it."""
    from agentray.runtime.local_cluster import driver_environment

    for name, value in driver_environment(address).items():
        os.environ.setdefault(name, value)
