"""Starts a node of a Ray cluster on this machine, and prints what it consists of, as JSON.

A program of its own: `ray start` refuses a second node of a cluster that listens on loopback only.
What it starts goes on when it ends.

    python ray_node.py GCS_ADDRESS NODE_ADDRESS TEMP_DIR CPUS RESOURCES
"""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

_OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes


def main(gcs_address: str, address: str, temp_dir: str, cpus: str, resources: str) -> None:
    """Start it; returns when its main process runs."""
    Config.initialize("")  # the authentication mode, as Ray's own commands do it
    params = RayParams(
        gcs_address=gcs_address,
        node_ip_address=address,
        temp_dir=temp_dir,
        num_cpus=int(cpus),
        num_gpus=0,
        resources=json.loads(resources),
        object_store_memory=_OBJECT_STORE_BYTES,
        # By default these are fixed numbers, which the first node has.
        dashboard_agent_listen_port=0,
        min_worker_port=0,
        max_worker_port=0,
        # It is a truth value, whatever Ray's annotation says.
        include_log_monitor=False,  # pyright: ignore[reportArgumentType]
    )
    node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False, connect_only=False)
    (raylet,) = node.all_processes["raylet"]
    told = {"id": node.node_id, "raylet": raylet.process.pid, "logs": node.get_logs_dir_path()}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
