"""What Ray's dashboard tells of machines, as the gateway shows it. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from agentray.core.jobs import NodeLoad
from agentray.errors import FilterRejected
from agentray.protocol.jobs import REDACTED, redacted


def shown(part: Any) -> Any:
    """Return what Ray tells, without the values of environment variables that look like secrets."""
    match part:
        case dict():
            fields = cast("dict[str, Any]", part).items()
            return {name: _shown_field(name, value) for name, value in fields}
        case list():
            return [shown(item) for item in cast("list[Any]", part)]
        case _:
            return part


def _shown_field(name: str, value: Any) -> Any:
    if name == "serialized_runtime_env" and isinstance(value, str):
        try:
            return json.dumps(redacted(json.loads(value)))
        except ValueError:
            return REDACTED  # whatever it is, nobody has looked at it
    if name == "env_vars" and isinstance(value, dict):
        return redacted({"env_vars": value})["env_vars"]
    return shown(value)


def rejection(told: str, filters: Mapping[str, str]) -> FilterRejected | None:
    """Return what is wrong with a filter, when that is what Ray says.

    Args:
        told: what it says.
        filters: that it was given.
    """
    if found := re.search(r"filter column (\S+) is not supported", told):
        _, _, known = told.partition(" filter columns:")
        fields = ", ".join(sorted(re.findall(r"'(\w+)'", known)))
        return FilterRejected(found[1], f"it can be one of {fields}.")
    if found := re.search(r"Failed to convert a value (.*) of type", told):
        field = next((name for name, value in filters.items() if value == found[1]), "")
        return FilterRejected(field, f"{found[1][:80]!r} is no value of this field.")
    return None


def id_of(node: dict[str, Any]) -> str:
    """Return the id of a machine of which its agent tells."""
    return node.get("raylet", {}).get("nodeId", "")


def machine(node: dict[str, Any], seen: dict[str, Any], free: dict[str, float]) -> dict[str, Any]:
    """Return a machine.

    Args:
        node: as `ray.nodes()` has it.
        seen: what its agent has measured, which may be nothing yet.
        free: what of its resources nobody has reserved.
    """
    total: dict[str, float] = node["Resources"]
    memory = seen.get("mem") or [0, 0, 0, 0]  # total, available, percent, used
    store, free_store = (amount.get("object_store_memory", 0.0) for amount in (total, free))
    cpus = total.get("CPU", 0.0)
    return {
        "node_id": node["NodeID"],
        "host_name": node["NodeManagerHostname"],
        "ip": node["NodeManagerAddress"],
        "is_head_node": "node:__internal_head__" in total,
        "state": "ALIVE",
        "alive": True,
        "accelerator_type": next(
            (n.partition(":")[2] for n in total if n.startswith("accelerator_type:")), None
        ),
        "cpu": {"total": cpus, "used": cpus - free.get("CPU", 0), "available": free.get("CPU", 0)},
        "cpu_percent": seen.get("cpu"),
        "memory": {"total": memory[0], "used": memory[3], "available": memory[1]},
        "object_store": {
            "total": store,
            "used": store - free_store,
            "available": free_store,
        },
        "gpus": [gpu_of(n, gpu) for n, gpu in enumerate(seen.get("gpus") or [])],
        "resources_total": total,
        "resources_available": free,
    }


def gpu_of(number: int, gpu: dict[str, Any]) -> dict[str, Any]:
    """Return a GPU. Amounts are whole megabytes and percent; processes are by their ids, as text.

    Args:
        number: its place at its machine.
        gpu: as the machine's agent has measured it.
    """
    processes: list[dict[str, Any]] = gpu.get("processesPids") or []
    used, total = (round(gpu.get(name) or 0) for name in ("memoryUsed", "memoryTotal"))
    return {
        "index": gpu.get("index", number),
        "name": gpu.get("name") or "",
        "uuid": gpu.get("uuid") or "",
        "utilization_gpu": gpu.get("utilizationGpu"),
        "memory_used": used,
        "memory_total": total,
        "memory_used_ratio": used / total if total else 0.0,
        "processes_pids": {
            str(process["pid"]): {
                "pid": process["pid"],
                "gpu_memory_usage": process.get("gpuMemoryUsage"),
                "gpu_utilization": process.get("gpuUtilization"),
            }
            for process in processes
        },
    }


def load_of(machine: dict[str, Any]) -> NodeLoad:
    """Return how busy a machine is."""
    memory = machine["memory"]
    return NodeLoad(
        machine["node_id"],
        machine["resources_total"],
        machine["resources_available"],
        machine["cpu_percent"],
        (memory["used"], memory["total"]) if memory["total"] else None,
    )
