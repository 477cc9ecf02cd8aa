"""What Ray calls while the local cluster is being started, in the process of `ray start`."""

from __future__ import annotations

from typing import Any


def without_client_server(ray_params: Any, head: bool) -> None:
    """Leave out the server for ray:// drivers.

    agentray's drivers connect without it. It is one more Python process, a second of the start,
    and one more port; the option for it takes no value that means none.
    """
    if head:
        ray_params.ray_client_server_port = None
