"""Jobs seen from the inside: what they report, and how they get their secrets."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from agentray.errors import ConfigurationError
from agentray.jobs import report
from agentray.jobs.entrypoint import with_secrets
from tests.support.cluster import Done
from tests.support.gateway import Gateway, Http


async def inside(gateway: Gateway, *command: str, token: str | None = None) -> Done:
    """Run a program as the job `a`."""
    env_vars = gateway.runner.specs["a"]["runtime_env"]["env_vars"]
    own = {**env_vars, "AGENTRAY_JOB_URL": gateway.url}
    if token is not None:
        own["AGENTRAY_JOB_TOKEN"] = token
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **own},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    return Done(process.returncode or 0, out.decode(), error.decode())


async def accept(http: Http, **more: object) -> None:
    body = {"entrypoint": "true", "submission_id": "a", **more}
    assert (await http.ask("POST", "/v1/jobs", body=body))[0] == 201


async def test_what_a_program_reports_is_in_its_record_when_it_has_ended(
    gateway: Gateway, http: Http
) -> None:
    await accept(http)
    code = """
import sys
from agentray import jobs
for n in range(1000):
    jobs.report(progress=n / 1000, metrics={"n": n})
jobs.report(metrics={"last": "à"})
assert "ray" not in sys.modules and "asyncpg" not in sys.modules
"""
    done = await inside(gateway, sys.executable, "-c", code)
    assert (done.exit_code, done.stderr) == (0, "")
    _, job = await http.get("/v1/jobs/a")
    assert (job["progress"], job["metrics"]) == (0.999, {"n": 999, "last": "à"})


async def test_a_result_is_kept_when_it_was_told(gateway: Gateway, http: Http) -> None:
    await accept(http)
    code = "import os; from agentray import jobs; jobs.report(result=[1, None]); os._exit(3)"
    assert (await inside(gateway, sys.executable, "-c", code)).exit_code == 3
    assert (await http.get("/v1/jobs/a"))[1]["result"] == [1, None]


async def test_a_wrong_token_warns_and_a_result_fails(gateway: Gateway, http: Http) -> None:
    await accept(http)
    code = "from agentray import jobs; jobs.report(progress=1)"
    done = await inside(gateway, sys.executable, "-c", code, token="wrong")
    assert done.exit_code == 0
    assert "this job's reports do not arrive" in done.stderr
    code = "from agentray import jobs; jobs.report(result=1)"
    done = await inside(gateway, sys.executable, "-c", code, token="wrong")
    assert done.exit_code == 1
    assert "JobError" in done.stderr


async def test_a_command_has_its_secrets_and_nobody_else_ever_does(
    gateway: Gateway, http: Http
) -> None:
    await accept(http, secrets={"S": "it's $HOME"})
    command = with_secrets('echo "$S"; exit 5', sys.executable)
    done = await inside(gateway, "sh", "-c", command)
    assert (done.exit_code, done.stdout) == (5, "it's $HOME\n")
    done = await inside(gateway, "sh", "-c", command)
    assert done.exit_code == 1
    assert done.complaint.startswith("error: the job's secrets cannot be fetched")


def test_only_jobs_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTRAY_JOB_ID", raising=False)
    with pytest.raises(ConfigurationError, match="AGENTRAY_JOB_ID"):
        report(progress=0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        report(progress=7)
    with pytest.raises(TypeError):
        report(result=object())
