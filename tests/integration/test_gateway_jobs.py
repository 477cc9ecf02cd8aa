"""Jobs over HTTP: submitted once, listed, stopped, forgotten; reports and secrets from inside."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from agentray.errors import RayUnavailable
from agentray.protocol.jobs import Job, JobStatus
from tests.support.gateway import INVOKE_KEY, READ_KEY, Gateway, Http, Json
from tests.support.jobs import machine

JOBS = "/v1/jobs"


async def submit(http: Http, **body: Any) -> tuple[int, Json]:
    headers = {name: body.pop(name) for name in list(body) if name[0].isupper()}
    status, answer, _ = await http.ask(
        "POST", JOBS, body={"entrypoint": "python train.py", **body}, **headers
    )
    return status, answer


def token(gateway: Gateway, job_id: str) -> str:
    return gateway.runner.specs[job_id]["runtime_env"]["env_vars"]["AGENTRAY_JOB_TOKEN"]


async def end(
    gateway: Gateway,
    job_id: str,
    status: JobStatus = JobStatus.SUCCEEDED,
    message: str = "over",
) -> None:
    stored = await gateway.store.get_job(job_id)
    assert stored is not None
    told = {"status": status, "end_time": stored.job.start_time + 5, "message": message}
    assert await gateway.store.update_job(stored.job.model_copy(update=told))


async def test_a_job_is_submitted_and_looked_at(gateway: Gateway, http: Http) -> None:
    env = {"env_vars": {"EPOCHS": "3", "HF_TOKEN": "hf_1", "DB": "postgresql://me:pw@h/d"}}
    status, job = await submit(
        http, submission_id="one", runtime_env=env, metadata={"team": "a"}, entrypoint_num_cpus=2
    )
    assert status == 201
    assert (job["job_id"], job["submission_id"], job["status"]) == ("one", "one", "PENDING")
    shown = {"EPOCHS": "3", "HF_TOKEN": "<redacted>", "DB": "<redacted>"}
    assert job["runtime_env"]["env_vars"] == shown
    given = gateway.runner.specs["one"]
    assert given["runtime_env"]["env_vars"]["HF_TOKEN"] == "hf_1"
    assert given["runtime_env"]["env_vars"]["AGENTRAY_JOB_ID"] == "one"
    assert (given["entrypoint"], given["entrypoint_num_cpus"]) == ("python train.py", 2)
    for path in (f"{JOBS}/one", f"{JOBS}/one/"):
        assert (await http.get(path)) == (200, job)
    assert (await http.get(f"{JOBS}/two"))[0] == 404
    assert await gateway.store.job_spec("one") is None  # Ray has it


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/"])
async def test_the_same_submission_is_the_same_job(http: Http, path: str) -> None:
    body = {"entrypoint": "true", "submission_id": "a"}
    assert [(await http.ask("POST", path, body=body))[0] for _ in range(2)] == [201, 200]
    status, problem, _ = await http.ask("POST", path, body={**body, "entrypoint": "false"})
    assert (status, problem["type"]) == (409, "urn:agentray:problem:taken")
    first = await submit(http, Idempotency_Key="k")
    again = await submit(http, Idempotency_Key="k")
    other = await submit(http, Idempotency_Key="k", entrypoint="false")
    assert (first[0], again[0], other[0]) == (201, 200, 409)
    assert first[1]["job_id"] == again[1]["job_id"]
    assert (await submit(http))[1]["job_id"] != (await submit(http))[1]["job_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"submission_id": "a/b"}, "submission_id"),
        ({"submission_id": "x" * 101}, "submission_id"),
        ({"submission_id": "plain\n"}, "submission_id"),
        ({"entrypoint": ""}, "entrypoint"),
        ({"entrypoint_num_cpus": -1}, "entrypoint_num_cpus"),
        ({"runtime_env": {"working_dir": "/etc"}}, "runtime_env.working_dir"),
        ({"runtime_env": {"env_vars": {"N": 1}}}, "runtime_env.env_vars"),
        ({"runtime_env": {"env_vars": {"A=B": "1"}}}, "runtime_env.env_vars"),
        ({"runtime_env": {"env_vars": {"": "1"}}}, "runtime_env.env_vars"),
        ({"runtime_env": {"env_vars": {"A": "\0"}}}, "runtime_env.env_vars"),
        ({"runtime_env": {"pip": ["a\0"]}}, "runtime_env.pip"),
        ({"runtime_env": {"pip": 5}}, "runtime_env.pip"),
        ({"runtime_env": {"config": {"eager_install": 1}}}, "runtime_env.config.eager_install"),
        ({"runtime_env": {"env_vars": "A"}}, "runtime_env.env_vars"),
        ({"runtime_env": {"py_modules": 5}}, "runtime_env.py_modules"),
        ({"entrypoint": " \t"}, "entrypoint"),
        ({"entrypoint_num_gpus": 1.5}, "entrypoint_num_gpus"),
        ({"entrypoint_memory": 10**15}, "entrypoint_memory"),
        ({"entrypoint_resources": {"a": -1}}, "entrypoint_resources"),
        ({"entrypoint_resources": {"CPU": 1}}, "entrypoint_resources"),
        ({"metadata": {"a": "\0"}}, "metadata"),
        ({"secrets": {"a=b": "x"}}, "secrets"),
        ({"nothing": 1}, "nothing"),
    ],
)
async def test_a_wrong_submission_is_refused(http: Http, body: Json, field: str) -> None:
    status, problem = await submit(http, **body)
    assert (status, problem["errors"][0]["field"]) == (422, field)
    assert (await http.get(JOBS))[1] == []


async def test_what_ray_rejects_is_not_kept(gateway: Gateway, http: Http) -> None:
    gateway.runner.rejects = "ValueError: no such thing"
    status, problem = await submit(http, submission_id="a")
    assert status == 422
    assert "no such thing" in problem["detail"]
    gateway.runner.rejects = None
    assert (await submit(http, submission_id="a", entrypoint="other"))[0] == 201


async def test_what_was_accepted_waits_for_ray(gateway: Gateway, http: Http) -> None:
    gateway.runner.away = RayUnavailable("Ray's dashboard does not answer")
    status, _ = await submit(http, submission_id="a", secrets={"S": "1"})
    assert status == 201
    assert await gateway.store.job_spec("a") is not None
    stored = await gateway.store.get_job("a")
    assert stored is not None
    assert not stored.submitted


async def test_scopes_of_jobs(http: Http) -> None:
    body = {"entrypoint": "true", "submission_id": "a"}
    assert (await http.ask("POST", JOBS, key=READ_KEY, body=body))[0] == 403
    assert (await http.ask("POST", JOBS, key=INVOKE_KEY, body=body))[0] == 201
    assert (await http.get(JOBS, key=READ_KEY))[0] == 200
    assert (await http.ask("DELETE", f"{JOBS}/a", key=READ_KEY))[0] == 403
    policy = {"max_concurrent_jobs": 1}
    changed = await http.ask("PATCH", "/v1/resources/policy", key=INVOKE_KEY, body=policy)
    assert changed[0] == 403


async def test_another_tenants_jobs_are_not_there(http: Http) -> None:
    acme, other = {"SYNAPSE_Tenant": "Token acme"}, {"SYNAPSE_Tenant": "Token other"}
    assert (await submit(http, submission_id="a", **acme))[0] == 201
    assert (await http.get(f"{JOBS}/a", **acme))[0] == 200
    for path in ("a", "a/logs", "a/logs/stream"):
        assert (await http.get(f"{JOBS}/{path}", **other))[0] == 404
    assert (await http.ask("POST", f"{JOBS}/a/stop", **other))[0] == 404
    assert (await http.ask("DELETE", f"{JOBS}/a", **other))[0] == 404
    assert (await http.get(JOBS, **other))[1] == []
    assert len((await http.get(JOBS, **acme))[1]) == len((await http.get(JOBS))[1]) == 1
    assert (await submit(http, submission_id="a", **other))[0] == 409
    for path in ("nodes", "tasks", "actors", "serve_applications"):
        assert (await http.get(f"/v1/{path}/", **acme))[0] == 403
        assert (await http.get(f"/v1/{path}/"))[0] == 200


async def test_jobs_are_listed_in_pages(gateway: Gateway, http: Http) -> None:
    for n in range(5):
        await submit(http, submission_id=f"j{n}", metadata={"n": str(n % 2)})
    status, found, headers = await http.ask("GET", f"{JOBS}/?limit=3&metadata.n=0")
    assert (status, len(found), "link" in headers) == (200, 3, False)
    first: Any
    rest: Any
    ended: Any
    status, first, headers = await http.ask("GET", f"{JOBS}/?limit=3")
    assert status == 200
    path = headers["link"].removeprefix("<").partition(">")[0]
    assert headers["link"].endswith('; rel="next"')
    status, rest, headers = await http.ask("GET", path)
    assert "link" not in headers
    assert sorted(job["job_id"] for job in [*first, *rest]) == [f"j{n}" for n in range(5)]
    await end(gateway, "j1")
    _, ended = await http.get(f"{JOBS}?status=SUCCEEDED")
    assert [job["job_id"] for job in ended] == ["j1"]
    assert Job.model_validate(ended[0]).status is JobStatus.SUCCEEDED
    assert (await http.get(f"{JOBS}?status=DONE"))[0] == 422


async def test_a_listing_does_not_end_where_its_place_is_lost(http: Http) -> None:
    tenant = {"SYNAPSE_Tenant": "acme"}
    assert (await submit(http, submission_id="theirs", **tenant))[0] == 201
    for before in ("nothing", "", "%00", "%0a", "../a"):
        status, problem = await http.get(f"{JOBS}?before={before}")
        assert (status, problem["errors"][0]["field"]) == (422, "before")
    assert (await http.get(f"{JOBS}?before=theirs")) == (200, [])
    status, problem = await http.get(f"{JOBS}?metadata.%00=a")
    assert (status, problem["errors"][0]["field"]) == (422, "metadata")
    assert "PostgreSQL" not in problem["detail"]


async def test_a_long_message_is_short_in_a_list_and_whole_in_the_job(
    gateway: Gateway, http: Http
) -> None:
    await submit(http, submission_id="a", metadata={"who": "Zoë"})
    log = "\n".join(
        ["Traceback:", *(f"  line {n}" for n in range(500)), "ValueError: no such file"]
    )
    said = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000"
    )
    await end(gateway, "a", JobStatus.FAILED, message=f"{said} chars):\n{log}\n")
    _, job = await http.get(f"{JOBS}/a")
    assert job["message"].endswith(f"{log}\n")
    _, (listed,) = await http.get(JOBS)
    told = "Job entrypoint command failed with exit code 1 … ValueError: no such file"
    assert listed == {**job, "message": told}


async def test_a_job_is_stopped_and_forgotten(gateway: Gateway, http: Http) -> None:
    await submit(http, submission_id="a")
    assert (await http.ask("DELETE", f"{JOBS}/a"))[0] == 409
    status, job, _ = await http.ask("POST", f"{JOBS}/a/stop/")
    assert (status, job["stop_requested"], job["status"]) == (202, True, "PENDING")
    assert gateway.runner.stopped == ["a"]
    await end(gateway, "a", JobStatus.STOPPED)
    assert (await http.ask("POST", f"{JOBS}/a/stop"))[0] == 200
    gateway.runner.away = RayUnavailable("Ray's dashboard does not answer")
    assert (await http.ask("DELETE", f"{JOBS}/a"))[0] == 503
    gateway.runner.away = None
    assert (await http.ask("DELETE", f"{JOBS}/a/"))[0] == 204
    assert (await http.get(f"{JOBS}/a"))[0] == 404
    assert (await http.ask("POST", f"{JOBS}/a/stop"))[0] == 404


async def test_a_job_is_waited_for(gateway: Gateway, http: Http) -> None:
    await submit(http, submission_id="a")
    status, job = await http.get(f"{JOBS}/a?wait_s=0.1")
    assert (status, job["status"]) == (200, "PENDING")
    await end(gateway, "a")
    assert (await http.get(f"{JOBS}/a?wait_s=60"))[1]["status"] == "SUCCEEDED"


# From the inside


async def test_a_job_reports_with_its_own_token(gateway: Gateway, http: Http) -> None:
    await submit(http, submission_id="a")
    await submit(http, submission_id="b")
    own, path = token(gateway, "a"), f"{JOBS}/a/report"
    told = {"progress": 0.5, "metrics": {"loss": 1}}
    assert (await http.ask("POST", path, key=own, body=told))[0] == 204
    assert (await http.ask("POST", path, key=own, body={"result": [1]}))[0] == 204
    assert (await http.ask("POST", path, key=token(gateway, "b"), body=told))[0] == 401
    assert (await http.ask("POST", path, body=told))[0] == 401  # an admin is no job
    assert (await http.ask("POST", path, key=None, body=told))[0] == 401
    assert (await http.ask("POST", path, key=own, body={"progress": 2}))[0] == 422
    _, job = await http.get(f"{JOBS}/a")
    assert (job["progress"], job["metrics"], job["result"]) == (0.5, {"loss": 1}, [1])
    _, (_, listed) = await http.get(JOBS)
    assert listed == job


async def test_secrets_are_given_once_and_are_in_no_record(gateway: Gateway, http: Http) -> None:
    secret = "correct horse"
    status, job = await submit(http, submission_id="a", secrets={"S": secret})
    assert status == 201
    given = gateway.runner.specs["a"]
    assert secret not in json.dumps([job, given])
    assert "-m agentray.jobs.entrypoint 'python train.py'" in given["entrypoint"]
    assert job["entrypoint"] == "python train.py"
    own, path = token(gateway, "a"), f"{JOBS}/a/secrets"
    assert (await http.ask("POST", path, key="guess"))[0] == 401
    status, answer, headers = await http.ask("POST", path, key=own)
    assert (status, answer) == (200, {"secrets": {"S": secret}})
    assert headers["cache-control"] == "no-store"
    assert (await http.ask("POST", path, key=own))[0] == 401
    assert secret not in json.dumps((await http.get(f"{JOBS}/a"))[1])
    assert (await submit(http, submission_id="a", secrets={"S": "new"}))[0] == 200  # a repeat


# Packages


async def test_files_are_uploaded_once(gateway: Gateway, http: Http) -> None:
    data = b"PK\x05\x06" + bytes(18)
    name = f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:16]}.zip"
    path = f"{JOBS}/packages/{name}"
    assert (await http.get(path))[0] == 404
    status, answer, _ = await http.ask("PUT", path, body=data)
    assert (status, answer) == (200, {"uri": f"gcs://{name}"})
    assert (await http.get(path)) == (200, answer)
    assert gateway.runner.packages == {name: data}
    assert (await http.ask("PUT", path, body=data + b"x"))[0] == 422
    assert (await http.ask("PUT", f"{JOBS}/packages/other.zip", body=data))[0] == 422
    name = f"_ray_pkg_{hashlib.sha256(b'no zip').hexdigest()}.zip"
    status, problem, _ = await http.ask("PUT", f"{JOBS}/packages/{name}", body=b"no zip")
    assert (status, problem["detail"]) == (422, "body: the content is no zip")
    assert name not in gateway.runner.packages


# The policy


async def test_the_policy_is_enforced_when_a_job_is_submitted(gateway: Gateway, http: Http) -> None:
    path = "/v1/resources/policy/"
    status, policy, _ = await http.ask("PATCH", path, body={"max_concurrent_jobs": 1})
    assert (status, policy["max_concurrent_jobs"]) == (200, 1)
    assert (await http.get(path)) == (200, policy)
    assert (await submit(http, submission_id="a"))[0] == 201
    status, problem = await submit(http, submission_id="b")
    assert (status, problem["type"]) == (429, "urn:agentray:problem:refused")
    assert problem["reasons"] == ["Jobs under way: 1, and the policy allows 1."]
    assert (await submit(http, submission_id="a"))[0] == 200  # a repeat is let in
    await end(gateway, "a")
    assert (await submit(http, submission_id="b"))[0] == 201
    await http.ask(
        "PATCH", path, body={"max_concurrent_jobs": 0, "cpu_max_utilization_percent": 50}
    )
    gateway.cluster.cpu_percent = 80
    status, problem = await submit(http, submission_id="c")
    assert status == 429
    assert problem["reasons"] == ["The CPU utilisation is 80 %, and the policy allows 50 %."]
    await http.ask("PATCH", path, body={"gatekeeping_enabled": False})
    assert (await submit(http, submission_id="c"))[0] == 201
    assert (await http.ask("PATCH", path, body={"max_concurrent_jobs": -1}))[0] == 422


@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
async def test_bodies_may_be_empty_or_null(http: Http, body: bytes) -> None:
    policy = (await http.get("/v1/resources/policy"))[1]
    assert (await http.ask("PATCH", "/v1/resources/policy/", body=body))[:2] == (200, policy)
    status, verdict, _ = await http.ask("POST", "/v1/resources/feasibility/", body=body)
    assert (status, verdict["allowed"]) == (200, True)
    await submit(http, submission_id="a")
    assert (await http.ask("POST", f"{JOBS}/a/stop/", body=body))[0] == 202


async def test_feasibility_says_why_not(http: Http) -> None:
    async def check(**wanted: Any) -> Json:
        six = {"kind": "job", "num_cpus": 1, "num_gpus": 0.0, "memory_bytes": None}
        body = {**six, "replicas": 1, "metadata": None, **wanted}
        status, verdict, _ = await http.ask("POST", "/v1/resources/feasibility/", body=body)
        assert status == 200
        return verdict

    assert await check() == {"allowed": True, "reasons": [], "possible": True}
    told = ["It needs 4 CPU, and at most 3 are free on one machine."]
    assert await check(num_cpus=4) == {"allowed": False, "reasons": told, "possible": True}
    told = ["It needs 1 unobtainium, and the largest machine has 0."]
    assert await check(resources={"unobtainium": 1}) == {
        "allowed": False, "reasons": told, "possible": False
    }  # fmt: skip
    verdict = await check(num_gpus=1)
    assert (verdict["allowed"], verdict["possible"]) == (False, False)
    assert verdict["error_type"] == "gpu_unavailable"
    assert (await check(num_cpus=1, replicas=4))["possible"]
    assert not (await check(num_cpus=1, replicas=5))["possible"]


# Views


@pytest.mark.parametrize("slash", ["", "/"])
async def test_nodes_tasks_and_actors_are_shown_as_ray_tells_of_them(
    gateway: Gateway, http: Http, slash: str
) -> None:
    for kind in ("node", "task", "actor"):
        parts = [{f"{kind}_id": f"{n}", "state": "ALIVE" if n else "DEAD"} for n in range(3)]
        gateway.cluster.parts[f"{kind}s"] = parts
        assert (await http.get(f"/v1/{kind}s{slash}")) == (200, parts)
        assert (await http.get(f"/v1/{kind}s{slash}?limit=1&state=ALIVE")) == (200, parts[1:2])
        assert (await http.get(f"/v1/{kind}s/2{slash}")) == (200, parts[2])
        assert (await http.get(f"/v1/{kind}s/9{slash}"))[0] == 404
        status, problem = await http.get(f"/v1/{kind}s{slash}?nonsense=1")
        assert (status, problem["errors"][0]["field"]) == (422, "nonsense")
        assert "it can be one of " in problem["detail"]


async def test_serve_applications_are_shown_and_taken_down(gateway: Gateway, http: Http) -> None:
    app = {"name": "plugin@1.2.3", "status": "RUNNING"}
    gateway.cluster.apps.append(app)
    assert app in (await http.get("/v1/serve_applications/"))[1]
    path = "/v1/serve_applications/plugin@1.2.3/"
    assert await http.get(path) == (200, app)
    assert (await http.ask("DELETE", path))[0] == 204
    assert (await http.get(path))[0] == (await http.ask("DELETE", path))[0] == 404
    assert (await http.ask("DELETE", "/v1/serve_applications/agentray"))[0] == 409  # ourselves


async def test_resources_have_the_fields_that_clients_read(gateway: Gateway, http: Http) -> None:
    gpu: Json = {
        "index": 0, "name": "A100", "uuid": "g", "utilization_gpu": 50, "memory_used": 10,
        "memory_total": 40, "processes_pids": [], "memory_used_ratio": 0.25,
    }  # fmt: skip
    gateway.cluster.known = [machine(gpus=[gpu]), machine(node_id="2")]
    status, found = await http.get("/v1/resources/cluster/?use_cache=false")
    assert status == 200
    assert {"collected_at", "stale", "running_jobs", "total_serve_replicas"} <= found.keys()
    assert found["cpu"] == {"total": 8, "used": 2, "available": 6}
    assert found["node_counts"] == {"total": 2, "alive": 2, "dead": 0}
    assert found["gpu"]["max_utilization"] == 50
    status, gpus = await http.get("/v1/gpu_status/")
    assert (status, gpus["total_memory_bytes"]) == (200, 40 * 1024 * 1024)
    assert gpus["nodes"][0]["gpus"] == [gpu]


async def test_health_and_what_is_not_here(http: Http) -> None:
    assert await http.get("/v1/health/") == (200, {"status": "ok"})
    for path in ("containers/", "containers/docker/", "containers/docker/abc", "builds/b1/"):
        status, problem = await http.get(f"/v1/{path}")
        assert (status, problem["type"]) == (501, "urn:agentray:problem:not-available-here")
        assert problem["missing"]
    assert (await http.ask("POST", "/v1/containers", body={}))[0] == 501
