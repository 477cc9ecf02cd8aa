"""The one part of the runtime that knows Ray.

Hosts and the manager are plain classes; here they become actors, and actor handles become the ports
that the rest of the runtime speaks to. Ray's errors are mapped once, here.
"""

from agentray.runtime.ray_adapter.connecting import (
    NodeLookout,
    cluster_address,
    connect_to_ray,
    disconnect_from_ray,
    is_connected,
    is_worker,
)
from agentray.runtime.ray_adapter.manager_maker import RayManagerMaker
from agentray.runtime.ray_adapter.ray_host import RayConnector
from agentray.runtime.ray_adapter.ray_manager import RayManager
from agentray.runtime.ray_adapter.setup import Setup

__all__ = [
    "NodeLookout",
    "RayConnector",
    "RayManager",
    "RayManagerMaker",
    "Setup",
    "cluster_address",
    "connect_to_ray",
    "disconnect_from_ray",
    "is_connected",
    "is_worker",
]
