"""Typed requests over HTTP: start, get, stream and cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from agentray.cli.main import app as command
from agentray.client import AsyncAgentClient, Conflict, InvalidRequest, NotFound
from agentray.protocol.async_jobs import JobState
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.support.request_agents import Reporter, reports_app

TYPE = "make-report"


@pytest.fixture
async def local(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    async with local_gateways(reports_app(rows=0), home=tmp_path) as gateways:
        yield gateways


@pytest.fixture
async def client(local: LocalGateways) -> AsyncGenerator[AsyncAgentClient]:
    async with local.client() as client:
        yield client


def rows(count: int) -> None:
    for _ in range(count):
        Reporter.rows.release()


async def test_the_types_are_listed_with_their_schemas(client: AsyncAgentClient):
    found = {each.name: each for each in await client.requests.types()}
    assert found.keys() == {"make-report", "prompt", "shared.work"}
    report = found[TYPE]
    assert (report.agents, report.doc) == (("reporter",), "Makes a report of so many rows.")
    assert report.request_schema["properties"].keys() == {"rows", "title"}
    assert sorted(found["shared.work"].agents) == ["helper", "reporter"]
    assert found["shared.work"].doc == ""  # not that of the class that all requests have


async def test_a_job_processes_tells_how_far_it_is_and_completes(client: AsyncAgentClient):
    token = await client.requests.start(TYPE, {"rows": 2})
    job = await client.requests.get(TYPE, token)
    assert (job.state, job.progress, job.type) == (JobState.PROCESSING, None, TYPE)
    rows(1)
    job = await client.requests.get(TYPE, token, wait_s=20, after=job.cursor)
    assert job.progress
    assert (job.progress.message, job.progress.current, job.progress.total) == ("row 1", 1, 2)
    assert job.state is JobState.PROCESSING
    waiting = asyncio.create_task(client.requests.get(TYPE, token, wait_s=20))
    rows(1)
    job = await waiting
    assert (job.state, job.response) == (JobState.COMPLETE, {"title": "Report", "rows": 2})
    assert job.progress
    assert job.progress.current == 2
    assert job.finished_at is not None
    run = await client.run(token)  # a job is a run
    assert run.result == job.response


async def test_a_job_that_fails_says_why(client: AsyncAgentClient):
    token = await client.requests.start(TYPE, {"rows": 0, "title": "fail"})
    job = await client.requests.get(TYPE, token, wait_s=20)
    assert (job.state, job.response) == (JobState.FAILED, None)
    assert job.error
    assert (job.error.type, job.error.message) == ("ValueError", "no paper")


async def test_parts_that_failed_are_told_beside_the_response(client: AsyncAgentClient):
    asked: Any = {"text": "work"}
    token = await client.requests.start("shared.work", asked, agent="helper/a", on_error="collect")
    job = await client.requests.get("shared.work", token, wait_s=20)
    assert (job.state, job.response) == (JobState.COMPLETE, "the rest")
    assert [(f.type, f.message) for f in job.failures] == [("RuntimeError", "cannot work")]
    assert job.agent == "helper/a"
    token = await client.requests.start("shared.work", asked, agent="helper/b")
    job = await client.requests.get("shared.work", token, wait_s=20)
    assert (job.state, job.failures) == (JobState.FAILED, ())


async def test_a_job_is_cancelled(client: AsyncAgentClient):
    token = await client.requests.start(TYPE, {"rows": 5})
    job = await client.requests.cancel(TYPE, token)
    assert job.state is JobState.FAILED
    assert job.error
    assert job.error.type == "Cancelled"
    assert await client.requests.cancel(TYPE, token) == job.model_copy(
        update={"runtime_ms": job.runtime_ms}
    )


async def test_a_repetition_finds_the_same_job(client: AsyncAgentClient):
    first = await client.requests.start(TYPE, {"rows": 1}, idempotency_key="a")
    assert await client.requests.start(TYPE, {"rows": 1}, idempotency_key="a") == first
    with pytest.raises(Conflict):
        await client.requests.start(TYPE, {"rows": 2}, idempotency_key="a")


async def test_a_prompt_is_a_request_too(client: AsyncAgentClient):
    token = await client.requests.start("prompt", {"prompt": "Ada"}, agent="helper/one")
    job = await client.requests.get("prompt", token, wait_s=20)
    assert (job.response, job.agent) == ("Hello, Ada!", "helper/one")


@pytest.mark.parametrize(
    ("name", "request_", "options", "field"),
    [
        (TYPE, {}, {}, "request"),
        (TYPE, {"rows": "many"}, {}, "request.rows"),
        (TYPE, {"rows": 1, "colour": "red"}, {}, "request"),
        (TYPE, {"rows": 1, "title": "a\0b"}, {}, "request"),
        (TYPE, {"rows": 1}, {"agent": "helper"}, "agent"),
        (TYPE, {"rows": 1}, {"session": "s"}, "session"),
        (TYPE, {"rows": 1}, {"timeout_s": -1}, "timeout_s"),
        (TYPE, {"rows": 1}, {"on_error": "hide"}, "on_error"),
        ("shared.work", {"text": "x"}, {}, "agent"),
        ("prompt", {"prompt": ""}, {}, "request.prompt"),
    ],
)
async def test_wrong_requests_are_refused_by_their_fields(
    client: AsyncAgentClient, name: str, request_: Any, options: Any, field: str
):
    with pytest.raises(InvalidRequest) as refused:
        await client.requests.start(name, request_, **options)
    assert refused.value.errors[0]["field"] == field


async def test_what_is_not_there_is_not_found(client: AsyncAgentClient):
    with pytest.raises(NotFound, match="make-report"):
        await client.requests.start("make-tea", {})
    with pytest.raises(NotFound):
        await client.requests.start("prompt", {"prompt": "x"}, session="nothing")
    token = await client.requests.start(TYPE, {"rows": 0})
    with pytest.raises(NotFound):
        await client.requests.get("prompt", token)
    with pytest.raises(NotFound):
        await client.requests.get(TYPE, "run_0")
    run = await client.prompt("x", agent="helper")
    with pytest.raises(NotFound):
        await client.requests.get("prompt", run.id)


async def test_a_job_is_followed_to_its_end_and_again_from_an_event(
    client: AsyncAgentClient, local: LocalGateways
):
    token = await client.requests.start(TYPE, {"rows": 2})
    rows(2)
    url = f"{local.replicas[0].url}/v1/async/{TYPE}/stream/{token}"

    async def events(**headers: str) -> list[tuple[str, str]]:
        sent = {"Authorization": f"Bearer {KEY}", **headers}
        async with aiohttp.ClientSession() as http, http.get(url, headers=sent) as answer:
            blocks = (await answer.text()).strip().split("\n\n")
        found = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
        return [(each["id"], each["event"]) for each in found]

    told = await events()
    assert [kind for _, kind in told] == ["progress", "progress", "complete"]
    again = await events(**{"Last-Event-ID": told[0][0]})
    assert [kind for _, kind in again] == ["progress", "complete"]


@pytest.mark.parametrize("wrong", ["5", True])
async def test_a_time_is_a_number(client: AsyncAgentClient, wrong: Any):
    with pytest.raises(InvalidRequest, match="timeout_s"):
        await client.requests.start(TYPE, {"rows": 1}, timeout_s=wrong)


async def test_the_command_sends_looks_and_cancels(local: LocalGateways, tmp_path: Path):
    env = {"AGENTRAY_HOME": str(tmp_path), "AGENTRAY_URL": local.replicas[0].url}
    env["AGENTRAY_API_KEY"] = KEY

    async def run(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, command, ("requests", *words), env=env)
        return done.exit_code, done.output

    code, told = await run("types")
    assert code == 0
    assert "make-report" in told
    rows(2)
    code, told = await run("send", TYPE, '{"rows": 2}')
    assert code == 0, told
    assert "row 2 (2/2)" in told
    assert '"rows": 2' in told
    code, token = await run("send", TYPE, '{"rows": 1}', "--wait", "0", "--agent", "reporter/a")
    assert code == 0
    token = token.strip()
    code, told = await run("get", TYPE, token)
    assert (code, token in told, "PROCESSING" in told) == (7, True, True)
    code, told = await run("get", TYPE, token, "--wait", "0.1", "--json")
    assert (code, json.loads(told)["agent"]) == (7, "reporter/a")
    code, told = await run("cancel", TYPE, token)
    assert (code, told.strip()) == (0, f"{token}: FAILED")
    code, told = await run("get", TYPE, token)
    assert code == 6
    assert "Cancelled" in told
    assert (await run("get", TYPE, "run_none"))[0] == 5
    assert (await run("send", "no-such", "{}"))[0] == 5
    assert (await run("send", TYPE, "[]"))[0] == 2
    code, told = await run("send", TYPE, '{"rows": "x"}')
    assert code == 2
    assert "request.rows" in told
    code, told = await run(
        "send", "shared.work", '{"text": "x"}', "--agent", "reporter", "--collect"
    )
    assert code == 0
    assert "a part failed: RuntimeError: cannot x" in told
