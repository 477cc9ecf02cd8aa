"""synapse-sdk's AgentClient, as it is, against the gateway: `base_url` is the gateway's `/v1`."""

from __future__ import annotations

from agentray.client import AsyncAgentClient
from agentray.jobs.machines import gpu_of
from agentray.protocol.jobs import JobStatus
from tests.integration.test_client_jobs import begin, change
from tests.support.gateway import KEY, Gateway
from tests.support.jobs import NODE, machine
from tests.support.third_party import run_third_party

LOG = b"1\n\n[2]\ndata: three\nlast"  # what looks like JSON or like events, too


async def test_every_documented_method_works(gateway: Gateway):
    gateway.cluster.parts = {
        "nodes": [{"node_id": "n1", "state": "ALIVE"}],
        "tasks": [{"task_id": "t1", "state": "FINISHED", "status": "FINISHED"}],
        "actors": [],
    }
    process = {"pid": 77, "gpuMemoryUsage": 10, "gpuUtilization": None}
    gpu = {"index": 0, "memoryUsed": 10, "memoryTotal": 40, "processesPids": [process]}
    gateway.cluster.known = [
        machine(
            gpus=[gpu_of(0, gpu)],
            resources_total={"CPU": 4.0, "GPU": 1.0},
            resources_available={"CPU": 3.0, "GPU": 0.5},
        )
    ]
    gateway.cluster.apps.append({"name": "my-app@1.0", "status": "RUNNING"})
    async with AsyncAgentClient(gateway.url, KEY, tenant="acme") as client:
        ended, running = await begin(gateway, client, LOG), await begin(gateway, client)
    await change(gateway, ended, JobStatus.SUCCEEDED)

    told = await run_third_party(
        "agent_client.py", f"{gateway.url}/v1", KEY, ended, running, "my-app@1.0"
    )
    blocking, other = told["blocking"], told["async"]
    lines = LOG.decode().split("\n")
    assert blocking["health"] == {"status": "ok"}
    assert blocking["jobs"] == other["jobs"] == sorted([ended, running])
    assert blocking["job"] == other["job"]
    assert (blocking["job"]["job_id"], blocking["job"]["status"]) == (ended, "SUCCEEDED")
    assert blocking["logs"] == blocking["listed_logs"] == other["logs"] == LOG.decode()
    # A message has several lines where many come at once. Its HTTP tail drops empty lines, and
    # reads what looks like a server-sent event as one.
    assert "\n".join(blocking["websocket"]).split("\n") == lines
    assert blocking["auto"] == blocking["websocket"]
    assert blocking["http"] == ["1", "[2]", "three", "last"]
    assert blocking["stopped"] is other["stopped"] is True
    assert blocking["missing"] == ["NotFoundError", 404]
    assert blocking["refused"] == ["AuthenticationError", 401]
    assert blocking["malformed"] == ["ClientError", 400]
    assert blocking["limited"] == ["ClientError", 429]
    assert blocking["containers"] == ["ServerError", 501]
    assert (blocking["gpus"], blocking["feasible"], blocking["policy"]) == (1, True, 0)
    assert blocking["gpu"][0]["memory_total"] == 40
    assert blocking["gpu"][0]["processes_pids"]["77"]["gpu_memory_usage"] == 10
    assert blocking["resources"] == other["resources"] == NODE
    assert (blocking["nodes"], blocking["node"]) == (["n1"], "ALIVE")
    assert (blocking["tasks"], blocking["task"]) == (["t1"], "FINISHED")
    assert (blocking["apps"], blocking["app"]) == (["agentray", "my-app@1.0"], "RUNNING")
    assert (blocking["deleted"], blocking["patched"]) == (None, 7)
    # Whom it spoke for is recorded: jobs of this tenant, and the user as a fingerprint.
    stored = await gateway.store.get_job(ended)
    assert stored is not None
    assert stored.owner == f"key_{KEY}@acme"
