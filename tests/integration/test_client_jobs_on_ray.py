"""Both clients and synapse-sdk's own against a real cluster: each documented method, and ours.

`Used` notes which methods were called, so none can be left out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentray.client import (
    AgentClient,
    AsyncAgentClient,
    ClientError,
    Job,
    JobStatus,
    LogPiece,
    StreamLimits,
)
from agentray.client.cluster import AsyncCluster
from agentray.client.jobs import AsyncJobs
from tests.support.cluster import Cluster
from tests.support.eventually import eventually_async
from tests.support.third_party import run_third_party

APPS = ("asynchronous", "blocking", "third@1.0")
TENANT = "acme"
LINES = [f"line {n}" for n in range(2000)]
PROGRAM = f"""
import os
import ray
from agentray import jobs
from ray import serve

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
def work():
    return 1

@serve.deployment(ray_actor_options={{"num_cpus": 0}})
class Quiet:
    def __call__(self):
        return "ok"

ray.get(work.options(name="work-of-a-job").remote())
serve.run_many(
    [serve.RunTarget(Quiet.bind(), name, "/" + name.partition("@")[0]) for name in {APPS!r}]
)
jobs.report(progress=0.5, result={{"name": os.environ["NAME"]}})
for n in range({len(LINES)}):
    print("line", n)
"""

DOCUMENTED = {
    "health_check", "list_jobs", "get_job", "get_job_logs", "stop_job", "tail_job_logs",
    "websocket_tail_job_logs", "stream_tail_job_logs", "stream_limits", "list_nodes", "get_node",
    "list_tasks", "get_task", "list_serve_applications", "get_serve_application",
    "delete_serve_application",
}  # fmt: skip
"""What synapse-sdk documents of its AgentClient."""

OURS = {name for part in (AsyncJobs, AsyncCluster) for name in vars(part) if name[0] != "_"}


class Used:
    """A client of either kind, and the names of its methods that were called."""

    def __init__(self, client: AgentClient | AsyncAgentClient) -> None:
        self.client = client
        self.names: set[str] = set()

    async def do(self, name: str, *args: Any, **more: Any) -> Any:
        """Call a method."""
        self.names.add(name)
        method: Callable[..., Any] = getattr(self.client, name)
        if isinstance(self.client, AgentClient):
            return await asyncio.to_thread(method, *args, **more)
        return await method(*args, **more)

    async def all(self, name: str, *args: Any, **more: Any) -> tuple[list[Any], Any]:
        """Call a method that yields; return what it yielded, and itself."""
        self.names.add(name)
        found: Any = getattr(self.client, name)(*args, **more)
        if isinstance(self.client, AgentClient):
            return await asyncio.to_thread(list, found), found
        return [each async for each in found], found

    def limit(self, limits: StreamLimits) -> None:
        """Bound its tails."""
        self.names.add("stream_limits")
        self.client.stream_limits = limits

    async def refused(self, name: str, *args: Any, **more: Any) -> int:
        """Return the status of the error that a method raises."""
        with pytest.raises(ClientError) as error:
            await (self.all if name == "tail_job_logs" else self.do)(name, *args, **more)
        return error.value.status_code


async def use_jobs(c: Used, job_id: str, project: Path) -> None:
    """Use all about jobs; one of them is running, or has succeeded."""
    own = await c.do("submit_job", "sleep 300", working_dir=project, metadata={"of": c_name(c)})
    assert await c.do("upload", project) == own.runtime_env["working_dir"]  # it is there already
    lines, tail = await c.all("tail_job_logs", job_id, timeout=60)
    assert [line for line in lines if line.startswith("line ")] == LINES
    assert (tail.end.reason, tail.end.status) == ("complete", "SUCCEEDED")
    for name in ("websocket_tail_job_logs", "stream_tail_job_logs"):
        assert (await c.all(name, job_id))[0] == lines
    events, _ = await c.all("follow_job", job_id)
    data = b"".join(event.data for event in events if isinstance(event, LogPiece)).decode()
    assert data == await c.do("get_job_logs", job_id) == await c.do("list_job_logs", job_id)
    assert data.splitlines() == lines
    job = await c.do("get_job", job_id, wait_s=30)
    assert (job["job_id"], job["status"], job.progress) == (job_id, JobStatus.SUCCEEDED, 0.5)
    assert job.result == {"name": "Ada"}
    wanted = {"of": c_name(c)}
    assert [each.job_id for each in await c.do("list_jobs", metadata=wanted)] == [own.job_id]
    assert [each.job_id for each in (await c.all("all_jobs", metadata=wanted))[0]] == [own.job_id]
    assert len((await c.do("job_page", 1)).jobs) == 1
    assert (await c.do("stop_job", own.job_id)).stop_requested
    assert (await c.do("get_job", own.job_id, wait_s=60)).status is JobStatus.STOPPED
    await c.do("delete_job", own.job_id)
    assert await c.refused("get_job", own.job_id) == 404
    assert await c.refused("tail_job_logs", own.job_id) == 404
    assert await c.refused("tail_job_logs", "a/b") == 400
    c.limit(StreamLimits(max_lines=5))
    assert await c.refused("tail_job_logs", job_id) == 429
    c.limit(StreamLimits())


def c_name(c: Used) -> str:
    return "blocking" if isinstance(c.client, AgentClient) else "asynchronous"


async def use_cluster(c: Used) -> None:
    """Use all about the cluster."""
    assert (await c.do("health_check"))["status"] == "ok"
    (node,) = await c.do("list_nodes", filters={"state": "ALIVE"})
    assert (await c.do("get_node", node.node_id))["alive"] is True

    async def listed() -> Any:
        return await c.do("list_tasks", filters={"name": "work-of-a-job"})

    (task,) = await eventually_async(listed)
    assert (await c.do("get_task", task["task_id"])).name == "work-of-a-job"
    manager = {"state": "ALIVE", "class_name": "ManagerActor"}  # others may end meanwhile
    (actor,) = await c.do("list_actors", limit=1, filters=manager)
    assert (await c.do("get_actor", actor.actor_id)).state == "ALIVE"
    assert await c.refused("get_node", "none") == 404
    for wrong in ({"nonsense": "1"}, {"pid": "abc"}):
        assert await c.refused("list_actors", filters=wrong) == 422
    apps = [app.name for app in await c.do("list_serve_applications")]
    assert {"agentray", c_name(c)} <= set(apps)
    assert (await c.do("get_serve_application", c_name(c)))["status"] == "RUNNING"
    assert await c.do("delete_serve_application", c_name(c)) is None
    assert await c.refused("get_serve_application", c_name(c)) == 404
    found = await c.do("get_cluster_resources", use_cache=False)
    assert found.cpu.total == node["resources_total"]["CPU"]
    assert (await c.do("get_gpu_status"))["total_gpus"] == found.gpu.total_gpus == 0
    assert (await c.do("check_feasibility", "job", 0)).allowed
    assert (await c.do("check_feasibility", "task", 10_000)).reasons
    for kind in ("runtime", "gatekeeping"):
        policy = await c.do(f"get_{kind}_policy")
        again = await c.do(f"update_{kind}_policy", {"max_concurrent_jobs": 0})
        assert again["max_concurrent_jobs"] == policy["max_concurrent_jobs"] == 0


async def use_theirs(cluster: Cluster, job_id: str, ended: Job, running: Job) -> None:
    """Use synapse-sdk's own client, with jobs of a tenant."""
    async with AsyncAgentClient(cluster.url, cluster.key, tenant=TENANT) as ours:
        assert (await ours.get_job(ended.job_id, wait_s=60)).status is JobStatus.SUCCEEDED
        assert await Used(ours).refused("get_job", job_id) == 404  # it is not this tenant's
        told = await run_third_party(
            "agent_client.py", f"{cluster.url}/v1", cluster.key, ended.job_id, running.job_id,
            APPS[2],
        )  # fmt: skip
        blocking, other = told["blocking"], told["async"]
        jobs = sorted([ended.job_id, running.job_id])
        assert blocking["jobs"] == other["jobs"] == jobs
        assert blocking["job"]["status"] == other["job"]["status"] == "SUCCEEDED"
        log = blocking["logs"]
        assert "\n1\n\n[2]\n" in log  # beside what Ray says of the job
        assert log == blocking["listed_logs"] == other["logs"]
        assert log == "\n".join([*blocking["websocket"], ""])
        assert blocking["auto"] == blocking["websocket"]
        assert blocking["http"] == [line for line in log.splitlines() if line]
        assert blocking["stopped"] is other["stopped"] is True
        errors = ("missing", "refused", "malformed", "limited")
        assert [blocking[error][1] for error in errors] == [404, 401, 400, 429]
        async with cluster.client() as everybody:  # a node that has gone is listed as well
            states = {node.node_id: node["state"] for node in await everybody.list_nodes()}
        assert set(blocking["nodes"]) <= states.keys()
        assert blocking["node"] == states[blocking["nodes"][0]]
        assert blocking["task"] == "FINISHED"
        assert (blocking["app"], blocking["deleted"]) == ("RUNNING", None)
        assert blocking["health"] == other["health"] == {"status": "ok"}
        assert (await ours.get_job(running.job_id, wait_s=60)).status is JobStatus.STOPPED
        for job in jobs:
            await ours.delete_job(job)


async def test_every_method_of_all_clients_against_a_cluster(cluster: Cluster, tmp_path: Path):
    (tmp_path / "job.py").write_text(PROGRAM)
    async with cluster.client() as client:
        job = await client.submit_job(
            f"{sys.executable} job.py",
            working_dir=tmp_path,
            runtime_env={"env_vars": {"NAME": "Ada"}},
            submission_id="for-clients",
        )
        async with AsyncAgentClient(cluster.url, cluster.key, tenant=TENANT) as tenant:
            ended = await tenant.submit_job("echo 1; echo; echo '[2]'")
            running = await tenant.submit_job("sleep 300")
        timeout = {"connect": 5, "read": 60, "total": 60}
        with AgentClient(
            base_url=cluster.url, agent_token=cluster.key, user_token="ada", timeout=timeout
        ) as blocking:
            both = Used(client), Used(blocking)
            await asyncio.gather(*(use_jobs(c, job.job_id, tmp_path) for c in both))
            await asyncio.gather(
                *map(use_cluster, both), use_theirs(cluster, job.job_id, ended, running)
            )
            for c in both:
                assert c.names >= DOCUMENTED | OURS
        await client.update_runtime_policy({"max_concurrent_jobs": 0})
        await client.delete_job(job.job_id)
    async with AsyncAgentClient(cluster.url, "wrong") as stranger:
        assert await Used(stranger).refused("list_jobs") == 401
