"""What Ray's dashboard tells of machines, as the gateway shows it."""

from __future__ import annotations

from typing import Any

from agentray.client import ClusterResources
from agentray.jobs.machines import gpu_of, load_of, machine, rejection, shown

GPU: dict[str, Any] = {
    "index": 1, "name": "NVIDIA A100", "uuid": "GPU-1", "utilizationGpu": 50,
    "memoryUsed": 1024, "memoryTotal": 4096, "powerMw": None,
    "processesPids": [{"pid": 77, "gpuMemoryUsage": 1000, "gpuUtilization": 40}],
}  # fmt: skip
NODE: dict[str, Any] = {
    "NodeID": "n1", "NodeManagerHostname": "here", "NodeManagerAddress": "127.0.0.1",
    "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 8e9, "object_store_memory": 1e9,
                  "node:__internal_head__": 1.0, "accelerator_type:A100": 1.0},
}  # fmt: skip


def test_a_gpu_has_its_processes_by_their_ids():
    told = gpu_of(0, GPU)
    process = {"pid": 77, "gpu_memory_usage": 1000, "gpu_utilization": 40}
    assert told["processes_pids"] == {"77": process}
    assert (told["index"], told["memory_used"], told["memory_used_ratio"]) == (1, 1024, 0.25)


def test_of_a_gpu_that_tells_little_nothing_is_made_up():
    told = gpu_of(3, {"name": None, "memoryUsed": 1023.6, "processesPids": None})
    assert told == {
        "index": 3, "name": "", "uuid": "", "utilization_gpu": None, "memory_used": 1024,
        "memory_total": 0, "memory_used_ratio": 0.0, "processes_pids": {},
    }  # fmt: skip


def test_a_machine_has_what_there_is_and_what_is_in_use():
    seen = {"mem": [100, 40, 60.0, 60], "cpu": 12.5, "gpus": [GPU]}
    told = machine(NODE, seen, {"CPU": 1.5, "object_store_memory": 4e8})
    assert told["cpu"] == {"total": 4, "used": 2.5, "available": 1.5}
    assert told["memory"] == {"total": 100, "used": 60, "available": 40}
    assert told["object_store"] == {"total": 1e9, "used": 6e8, "available": 4e8}
    assert (told["is_head_node"], told["accelerator_type"]) == (True, "A100")
    assert load_of(told).memory == (60, 100)
    snapshot = {"collected_at": "2026-01-01T00:00:00Z", "nodes": [told]}
    read = ClusterResources.model_validate(snapshot)
    assert read.nodes[0].gpus[0]["processes_pids"]["77"]["pid"] == 77


def test_a_machine_whose_agent_has_not_measured_yet_is_shown():
    told = machine(NODE, {}, {})
    assert (told["gpus"], told["memory"]["total"], load_of(told).memory) == ([], 0, None)


def test_secrets_in_environments_are_not_shown_wherever_they_are():
    told = shown([{"a": {"env_vars": {"TOKEN": "x", "N": "1"}}, "serialized_runtime_env": "{"}])
    assert told[0]["a"]["env_vars"] == {"TOKEN": "<redacted>", "N": "1"}
    assert told[0]["serialized_runtime_env"] == "<redacted>"


def test_what_ray_says_of_a_filter_names_the_fields_that_will_do():
    told = (
        "The given filter column nonsense is not supported. Enter filters with --filter key=value "
        "or --filter key!=value Supported filter columns: {'state', 'actor_id', 'pid'}"
    )
    found = rejection(told, {"nonsense": "1"})
    assert found is not None
    assert (found.field, found.problem) == ("nonsense", "it can be one of actor_id, pid, state.")
    told = "Failed to convert a value abc of type <class 'str'> to <class 'int'>"
    found = rejection(told, {"state": "ALIVE", "pid": "abc"})
    assert found is not None
    assert (found.field, found.problem) == ("pid", "'abc' is no value of this field.")
    assert rejection("Failed to connect to the GCS", {"pid": "abc"}) is None
