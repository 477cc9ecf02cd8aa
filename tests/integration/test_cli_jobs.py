"""Commands about jobs and the cluster, against a gateway whose jobs are files."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agentray.cli.exits import ExitCode
from agentray.protocol.jobs import JobReport, JobStatus
from agentray.runtime.job_keeper import token_digest
from tests.integration.test_cli_http import Done, Shell
from tests.integration.test_client_jobs import change
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, READ_KEY, Gateway
from tests.support.jobs import NODE


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


async def begin(shell: Shell, gateway: Gateway, job_id: str, log: bytes) -> None:
    done = await shell("jobs", "submit", "--id", job_id, "--", "python", "train.py", "two words")
    assert (done.exit_code, done.stdout) == (0, f"{job_id}\n"), done
    gateway.runner.write(job_id, log)
    await change(gateway, job_id, JobStatus.RUNNING, driver_node_id=NODE)


async def test_a_job_with_all_that_can_be_said(
    shell: Shell, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print(1)")
    (tmp_path / "env.json").write_text('{"env_vars": {"A": "1", "B": "2"}}')
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = await shell(
        "jobs", "submit", "--id", "one", "--working-dir", str(tmp_path / "project"),
        "--runtime-env", f"@{tmp_path / 'env.json'}", "--env", "B=3", "--secret", "HF_TOKEN",
        "--pip", "polars", "--metadata", "team=a", "--num-cpus", "2", "--resource", "disk=0.5",
        "--json", "--", "python", "train.py", "--epochs", "3", "two words",
    )  # fmt: skip
    assert done.exit_code == 0, done
    job = json.loads(done.stdout)
    assert job["entrypoint"] == "python train.py --epochs 3 'two words'"
    assert job["runtime_env"]["env_vars"]["B"] == "3"
    assert job["runtime_env"]["pip"] == ["polars"]
    assert job["runtime_env"]["working_dir"].startswith("gcs://")
    assert job["entrypoint_resources"] == {"disk": 0.5}
    assert "hf_secret" not in done.stdout
    spec = gateway.runner.specs["one"]
    assert "hf_secret" not in json.dumps(spec)

    listed = await shell("jobs", "list", "--metadata", "team=a", "--json")
    assert [found["job_id"] for found in json.loads(listed.stdout)["jobs"]] == ["one"]
    table = (await shell("jobs", "list")).stdout
    assert "PENDING" in table
    assert "python train.py --epochs 3" in table
    assert "team=a" in (await shell("jobs", "get", "one")).stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["submit", "--env", "A", "--", "true"], "write NAME=VALUE"),
        (["submit", "--resource", "a=b", "--", "true"], "--resource"),
        (["submit", "--secret", "NOT_SET_ANYWHERE", "--", "true"], "no such variable"),
        (["submit", "--runtime-env", "{", "--", "true"], "--runtime-env"),
        (["submit", "--runtime-env", "[]", "--", "true"], "no JSON object"),
        (["submit", "--runtime-env", '{"env_vars": []}', "--env", "A=b", "--", "true"], "env_vars"),
        (["submit", "--working-dir", "/no/such", "--", "true"], "no directory"),
        (["submit", "--id", "a/b", "--", "true"], "no id of a job"),
        (["submit"], "COMMAND"),
        (["logs", "a", "--tail", "1", "--offset", "2"], "not both"),
        (["get", "a", "--wait", "soon"], "write 90s"),
    ],
)
async def test_what_cannot_be_is_said(shell: Shell, words: list[str], told: str):
    done = await shell("jobs", *words)
    assert done.exit_code == ExitCode.USAGE, done
    assert told in done.stderr


async def test_exit_codes(shell: Shell, gateway: Gateway):
    for words in (["get", "none"], ["logs", "none"], ["stop", "none"], ["delete", "none"]):
        done = await shell("jobs", *words)
        assert done.exit_code == ExitCode.NOT_FOUND, done
        assert "There is no job 'none'" in done.stderr
    assert (await shell("jobs", "submit", "--", "true", key=READ_KEY)).exit_code == ExitCode.REFUSED
    await begin(shell, gateway, "one", b"")
    assert (await shell("jobs", "get", "one", "--wait", "0s")).exit_code == ExitCode.UNFINISHED
    assert (await shell("jobs", "delete", "one")).exit_code == ExitCode.USAGE  # it runs
    done = await shell("jobs", "stop", "one", "--wait", "0.1s")
    assert (done.exit_code, done.stdout) == (ExitCode.UNFINISHED, "one: is going to end\n")
    await change(gateway, "one", JobStatus.STOPPED)
    assert (await shell("jobs", "stop", "one")).stdout == "one: STOPPED\n"
    assert (await shell("jobs", "get", "one", "--wait", "9s")).exit_code == ExitCode.RUN_FAILED
    assert (await shell("jobs", "delete", "one")).stdout == "one: deleted\n"


async def test_a_log_is_printed_byte_by_byte(shell: Shell, gateway: Gateway):
    await begin(shell, gateway, "one", "grüße\nno end".encode())
    done = await shell("jobs", "logs", "one")
    assert (done.exit_code, done.stdout) == (0, "grüße\nno end")
    assert (await shell("jobs", "logs", "one", "--tail", "1")).stdout == "no end"
    assert (await shell("jobs", "logs", "one", "--offset", "8")).stdout == "no end"
    lines = (await shell("jobs", "logs", "one", "--json")).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [(t["offset"], t["text"]) for t in told if t["type"] == "line"] == [
        (0, "grüße"),
        (8, "no end"),
    ]


async def test_who_reads_a_log_may_leave(shell: Shell, gateway: Gateway):
    await begin(shell, gateway, "one", b"line\n" * 100_000)
    program = Path(sys.executable).with_name("agentray")
    command = f"{program} jobs logs one | head -n 1; echo ${{PIPESTATUS[0]}}"
    given = {"AGENTRAY_URL": gateway.url, "AGENTRAY_API_KEY": KEY}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env={**os.environ, **given},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (out, err) == (b"line\n0\n", b"")


async def test_a_log_is_followed_to_the_end_of_the_job(shell: Shell, gateway: Gateway):
    following = asyncio.create_task(
        shell("jobs", "submit", "--follow", "--id", "one", "--", "python", "train.py")
    )

    async def submitted() -> bool:
        return "one" in gateway.runner.jobs

    await eventually_async(submitted)
    gateway.runner.write("one", b"epoch 1\n")
    await change(gateway, "one", JobStatus.RUNNING, driver_node_id=NODE)
    token = gateway.runner.specs["one"]["runtime_env"]["env_vars"]["AGENTRAY_JOB_TOKEN"]
    report = JobReport(progress=0.5, metrics={"loss": 0.25})
    assert await gateway.store.report_job("one", token_digest(token), report)
    gateway.runner.write("one", b"epoch 2\n")
    await change(gateway, "one", JobStatus.FAILED)
    done: Done = await following
    assert (done.exit_code, done.stdout) == (ExitCode.RUN_FAILED, "epoch 1\nepoch 2\n")
    assert "The job has failed: it is FAILED" in done.stderr
    assert "50%" in (await shell("jobs", "list", "--status", "failed")).stdout


async def test_who_follows_a_log_is_told_how_the_job_ended(shell: Shell, gateway: Gateway):
    for status, code in (
        (JobStatus.SUCCEEDED, ExitCode.OK),
        (JobStatus.FAILED, ExitCode.RUN_FAILED),
        (JobStatus.STOPPED, ExitCode.RUN_FAILED),
    ):
        job_id = status.value
        await begin(shell, gateway, job_id, b"over\n")
        await change(gateway, job_id, status)
        for words in (["-f"], ["-f", "--json"], ["-f", "--tail", "1"], ["-f", "--offset", "2"]):
            done = await shell("jobs", "logs", job_id, *words)
            assert (done.exit_code, "over"[2:] in done.stdout) == (code, True), done
        # What is there was asked for, whatever became of the job.
        assert (await shell("jobs", "logs", job_id)).exit_code == ExitCode.OK
    await begin(shell, gateway, "running", b"goes on\n")
    assert (await shell("jobs", "logs", "running")).exit_code == ExitCode.OK


async def test_the_policy_is_shown_and_changed(shell: Shell):
    assert "any number" in (await shell("jobs", "policy")).stdout
    done = await shell("jobs", "policy", "--max-jobs", "1", "--max-cpu", "80", "--json")
    told = json.loads(done.stdout)
    assert (told["max_concurrent_jobs"], told["cpu_max_utilization_percent"]) == (1, 80)
    assert "80 %" in (await shell("jobs", "policy")).stdout
    assert (await shell("jobs", "submit", "--", "true")).exit_code == ExitCode.OK
    for patience in ("0.2", "20"):  # a busy machine may need more to hear of it
        refused = await shell("jobs", "submit", "--timeout", patience, "--", "true")
        assert refused.exit_code == ExitCode.UNAVAILABLE
        if "the policy allows" in refused.stderr:
            break
    assert "the policy allows 1" in refused.stderr
    assert "do not hold" in (await shell("jobs", "policy", "--off")).stdout
    assert (await shell("jobs", "submit", "--", "true")).exit_code == ExitCode.OK
    denied = await shell("jobs", "policy", "--on", key=READ_KEY)
    assert denied.exit_code == ExitCode.REFUSED
    assert (await shell("jobs", "policy", key=READ_KEY)).exit_code == ExitCode.OK


async def test_views_of_the_cluster(shell: Shell, gateway: Gateway):
    gateway.cluster.parts = {
        "nodes": [
            {
                "node_id": "n1",
                "state": "ALIVE",
                "node_ip": "127.0.0.1",
                "resources_total": {"node:__internal_head__": 1.0, "CPU": 2.0, "memory": 15.5e9},
            }
        ],
        "tasks": [{"task_id": "t1", "state": "RUNNING", "name": "work"}],
        "actors": [{"actor_id": "a1", "state": "DEAD", "class_name": "Host", "pid": 7}],
    }
    for kind, told in (("nodes", "127.0.0.1"), ("tasks", "work"), ("actors", "Host")):
        assert told in (await shell(kind)).stdout
        found = json.loads((await shell(kind, "--json")).stdout)
        assert found[0][f"{kind[:-1]}_id"] == f"{kind[0]}1"
        assert (await shell(kind, "list", "--json")).stdout == (await shell(kind, "--json")).stdout
        nothing = (await shell(kind, "--filter", "state=GONE")).stdout
        assert nothing == f"There are no such {kind}.\n"
        one = f"{kind[0]}1"
        assert told in (await shell(kind, "get", one)).stdout
        assert json.loads((await shell(kind, "get", one, "--json")).stdout) == found[0]
        assert (await shell(kind, "get", "none")).exit_code == ExitCode.NOT_FOUND
        misplaced = await shell(kind, "--url", "http://elsewhere", "get", one)
        assert misplaced.exit_code == ExitCode.USAGE
        assert "Write --url after `get`" in misplaced.stderr
        assert (await shell(kind, "got", one)).exit_code == ExitCode.USAGE
    assert "2 CPU, 15.5 GB memory\n" in (await shell("nodes")).stdout
    assert '"node:__internal_head__": 1.0' in (await shell("nodes", "get", "n1")).stdout
    nonsense = await shell("nodes", "--filter", "nonsense=1")
    assert (nonsense.exit_code, "nonsense: it can be one of" in nonsense.stderr) == (
        ExitCode.USAGE,
        True,
    )
    gateway.cluster.apps.append({"name": "my-app", "status": "RUNNING", "route_prefix": "/x"})
    assert "my-app" in (await shell("serve", "list")).stdout
    assert "RUNNING" in (await shell("serve", "get", "my-app")).stdout
    assert json.loads((await shell("serve", "get", "my-app", "--json")).stdout)["name"] == "my-app"
    assert (await shell("serve", "delete", "my-app")).stdout == "my-app: deleted\n"
    assert (await shell("serve", "get", "my-app")).exit_code == ExitCode.NOT_FOUND
