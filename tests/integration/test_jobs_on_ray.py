"""Jobs that Ray really runs: their logs beside their own files, reports, secrets, and ends."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from agentray.runtime.session_dirs import ray_dir
from tests.support.cluster import Cluster, program, run_program
from tests.support.eventually import eventually_async
from tests.support.gateway import Http, Json
from tests.support.tails import Rebuilt, tail

PROGRAM = """
import os, sys, time
from agentray import jobs
assert os.environ["S3CRET"] == "correct horse"
jobs.report(progress=0.25, metrics={"lines": 20000})
for n in range(20000):
    print(n, "x" * (n % 50))
    if n == 10000:
        sys.stdout.flush()
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.05)
jobs.report(progress=1, result={"answer": 42})
sys.stdout.write("no end")
"""


def log_file(cluster: Cluster, job_id: str) -> Path:
    (found,) = ray_dir(cluster.home).glob(f"session_2*/logs/job-driver-{job_id}.log")
    return found


async def until(cluster: Cluster, http: Http, job_id: str, *statuses: str) -> Json:
    async def there() -> Json | None:
        status, job = await http.get(f"/v1/jobs/{job_id}", key=cluster.key)
        return job if status == 200 and job["status"] in statuses else None

    found = await eventually_async(there, timeout_s=60)
    assert found is not None
    return found


async def submit(cluster: Cluster, http: Http, job_id: str, entrypoint: str, **more: Any) -> None:
    body = {"submission_id": job_id, "entrypoint": entrypoint, **more}
    status, job, _ = await http.ask("POST", "/v1/jobs/", key=cluster.key, body=body)
    assert status == 201, job


async def test_a_job_is_followed_while_its_gateway_is_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = tmp_path / "job.py"
    script.write_text(PROGRAM)
    async with aiohttp.ClientSession() as session:
        http = Http(cluster.url, session)
        await submit(
            cluster,
            http,
            "followed",
            f"{sys.executable} {script} {go}",
            secrets={"S3CRET": "correct horse"},
        )
        rebuilt = Rebuilt()

        async def follow() -> None:
            while rebuilt.end is None:
                try:
                    await tail(
                        http, "websocket", "followed", rebuilt, key=cluster.key, offset=rebuilt.next
                    )
                except aiohttp.ClientError:  # its gateway is on its way back
                    await asyncio.sleep(0.2)

        following = asyncio.create_task(follow())

        async def halfway() -> bool:
            return b"\n9000 " in rebuilt.data

        await eventually_async(halfway, timeout_s=60)
        (replica,) = cluster.processes("ray::ServeReplica:agentray:gateway")
        replica.kill()
        go.touch()
        async with asyncio.timeout(90):
            await following
        assert rebuilt.data == log_file(cluster, "followed").read_bytes()
        assert rebuilt.data.endswith(b"no end")
        assert rebuilt.reason == "complete"
        job = await until(cluster, http, "followed", "SUCCEEDED")
        assert (job["progress"], job["result"]) == (1, {"answer": 42})
        assert job["metrics"] == {"lines": 20000}
        for path in ("jobs/followed/", "jobs/", "actors/?limit=1000", "tasks/?limit=1000"):
            _, told = await http.get(f"/v1/{path}", key=cluster.key)
            assert "correct horse" not in json.dumps(told)
            assert "AGENTRAY_JOB_TOKEN" not in json.dumps(told)


async def test_jobs_of_ray_itself_appear_and_a_lost_worker_is_a_failure_with_its_cause(
    cluster: Cluster,
) -> None:
    command = ["job", "submit", "--no-wait", "--submission-id", "plain", "--", "sleep", "300"]
    env = {**cluster.env, "RAY_ADDRESS": cluster.record.dashboard_url, "RAY_AUTH_MODE": "token"}
    async with aiohttp.ClientSession() as session:
        http = Http(cluster.url, session)
        await submit(cluster, http, "stopped", "sleep 300")
        await submit(cluster, http, "too-large", "true", entrypoint_num_cpus=1000)
        done = await asyncio.to_thread(run_program, program("ray"), *command, env=env)
        assert done.exit_code == 0, done
        job = await until(cluster, http, "plain", "RUNNING")
        assert (job["source"], job["entrypoint"]) == ("ray", "sleep 300")

        await until(cluster, http, "stopped", "RUNNING")
        await http.ask("POST", "/v1/jobs/stopped/stop/", key=cluster.key)
        rebuilt = await tail(http, "http", "stopped", key=cluster.key)
        assert rebuilt.reason == "stopped"
        assert rebuilt.data == log_file(cluster, "stopped").read_bytes()

        for process in cluster.processes("ray::JobSupervisor"):
            process.kill()
        failed = await until(cluster, http, "plain", "FAILED")
        assert "supervisor actor died" in failed["message"]

        async def explained() -> bool:
            _, job = await http.get("/v1/jobs/too-large", key=cluster.key)
            return "It needs 1000 CPU" in job["message"]

        await eventually_async(explained, timeout_s=30)
        await http.ask("POST", "/v1/jobs/too-large/stop", key=cluster.key)
        await until(cluster, http, "too-large", "STOPPED")
        for job_id in ("plain", "stopped", "too-large"):
            assert (await http.ask("DELETE", f"/v1/jobs/{job_id}", key=cluster.key))[0] == 204


async def test_a_deleted_job_leaves_nothing_to_the_next_one_of_its_id(cluster: Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        http = Http(cluster.url, session)
        await submit(cluster, http, "twice", "echo of the first")
        await until(cluster, http, "twice", "SUCCEEDED")
        # At once: Ray has not looked at its end, and would note that it was lost.
        status, _, _ = await http.ask("DELETE", "/v1/jobs/twice", key=cluster.key)
        assert status == 204
        await submit(cluster, http, "twice", "echo of the second")
        await until(cluster, http, "twice", "SUCCEEDED")
        rebuilt = await tail(http, "websocket", "twice", key=cluster.key)
        assert b"of the second" in rebuilt.data
        assert b"of the first" not in rebuilt.data
        await http.ask("DELETE", "/v1/jobs/twice", key=cluster.key)
        assert not list(ray_dir(cluster.home).glob("session_2*/logs/job-driver-twice.log"))
