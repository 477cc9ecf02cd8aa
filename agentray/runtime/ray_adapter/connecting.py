"""Connecting this process to a Ray cluster."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import Config, GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import RpcError

from agentray.errors import (
    ClusterNotRunning,
)
from agentray.runtime.local_cluster import is_loopback
from agentray.runtime.ray_adapter.setup import NAMESPACE

_LOOK_TIMEOUT_S = 5.0


def is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    return ray.is_initialized()


def is_worker() -> bool:
    """Whether this process runs Ray tasks or a Ray actor, rather than being a driver."""
    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def connect_to_ray(address: str) -> None:
    """Connect this process to a Ray cluster.

    Args:
        address: `host:port` of its GCS, or `auto` inside of a Ray job.

    Raises:
        ClusterNotRunning: nobody answers there.
    """
    _prepare(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RuntimeError) as error:
        raise ClusterNotRunning(f"No Ray cluster answers at {address}: {error}") from error
    finally:
        _keep(handler)


def _keep(handler: Any) -> None:
    """Put back what this process does on SIGTERM: Ray makes it exit without cleaning up."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and handler not in {None, signal.SIG_DFL}:
        signal.signal(signal.SIGTERM, handler)


class NodeLookout:
    """Looks whether a cluster that is being started has a node to connect to yet.

    `connect_to_ray` waits for one, too, but looks only once a second.
    """

    def __init__(self, address: str) -> None:
        _prepare(address)
        self._gcs = GcsClient(address=address)

    def has_node(self) -> bool:
        """Ask the GCS; false also while it does not answer."""
        try:
            nodes = self._gcs.get_all_node_info(
                timeout=_LOOK_TIMEOUT_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE
            )
        except RpcError:
            return False
        return bool(nodes)


def _prepare(address: str) -> None:
    """Set what Ray reads when it is imported, which a driver may have done before it came here."""
    Config.initialize("")  # the authentication mode, as Ray's own `init` does it
    if is_loopback(address):
        # Ray replaces a loopback address by the machine's own, where a local cluster does not
        # listen, and waits there for minutes.
        ray_constants.ENABLE_RAY_CLUSTER = False


def cluster_address() -> str:
    """Return `host:port` of the GCS of the cluster that this process is connected to."""
    return ray.get_runtime_context().gcs_address


def disconnect_from_ray() -> None:
    """Leave the Ray cluster; it goes on."""
    ray.shutdown()
