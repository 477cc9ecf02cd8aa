"""Use synapse-sdk's AgentClient as its documentation says; print what it returned.

Arguments: the base URL, the key, a job that has ended, a job that is still running, a Serve
application that is to be deleted.
"""

import asyncio
import json
import sys

from synapse_sdk.clients.agent import AgentClient, AsyncAgentClient
from synapse_sdk.clients.exceptions import ClientError
from synapse_sdk.utils.network import StreamLimits

URL, KEY, ENDED, RUNNING, APP = sys.argv[1:]


def error_of(call):
    """Return the class and the status of what a call raises."""
    try:
        call()
    except ClientError as error:
        return [type(error).__name__, error.status_code]
    return None


def use_blocking():
    """Call every documented method."""
    client = AgentClient(
        URL, KEY, user_token="ada", tenant="acme", timeout={"connect": 3, "read": 10}
    )
    told = {
        "health": client.health_check(),
        "jobs": sorted(job["job_id"] for job in client.list_jobs()),
        "job": client.get_job(ENDED),
        "logs": client.get_job_logs(ENDED),
        "listed_logs": client.list_job_logs(ENDED),
        "websocket": list(client.tail_job_logs(ENDED, protocol="websocket")),
        "http": list(client.tail_job_logs(ENDED, protocol="http")),
        "auto": list(client.tail_job_logs(ENDED)),
        "stopped": client.stop_job(RUNNING)["stop_requested"],
        "missing": error_of(lambda: client.get_job("none")),
        "refused": error_of(AgentClient(URL, "wrong").list_jobs),
        "malformed": error_of(lambda: list(client.tail_job_logs("a/b"))),
        "gpus": client.get_gpu_status()["total_gpus"],
        "resources": client.get_cluster_resources().nodes[0].node_id,
        "gpu": [g.model_dump() for g in client.get_cluster_resources().nodes[0].gpus],
        "feasible": client.check_feasibility("job", 2)["allowed"],
        "policy": client.get_runtime_policy().max_concurrent_jobs,
        "containers": error_of(client.list_containers),
    }
    client.stream_limits = StreamLimits(max_messages=1, max_lines=1)
    told["limited"] = error_of(lambda: list(client.tail_job_logs(ENDED, protocol="http")))
    # Machines and Serve belong to no tenant.
    everybody = AgentClient(base_url=URL, agent_token=KEY)
    nodes = [node["node_id"] for node in everybody.list_nodes()]
    tasks = [task["task_id"] for task in everybody.list_tasks() if task["status"] == "FINISHED"]
    told |= {
        "nodes": nodes,
        "node": everybody.get_node(nodes[0])["state"],
        "tasks": tasks,
        "task": everybody.get_task(tasks[0])["status"],
        "apps": [app["name"] for app in everybody.list_serve_applications()],
        "app": everybody.get_serve_application(APP)["status"],
        "deleted": everybody.delete_serve_application(APP),
        "patched": everybody.update_runtime_policy({"max_concurrent_jobs": 7}).max_concurrent_jobs,
    }
    return told


async def use_async():
    """Call what its asynchronous twin has; its tails are broken as they come."""
    async with AsyncAgentClient(URL, KEY, tenant="acme") as client:
        return {
            "health": await client.health_check(),
            "jobs": sorted(job["job_id"] for job in await client.list_jobs()),
            "job": await client.get_job(ENDED),
            "logs": await client.get_job_logs(ENDED),
            "stopped": (await client.stop_job(RUNNING))["stop_requested"],
            "resources": (await client.get_cluster_resources()).nodes[0].node_id,
        }


print(json.dumps({"blocking": use_blocking(), "async": asyncio.run(use_async())}))
