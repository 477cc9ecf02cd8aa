"""Prompts that begin later, over HTTP, with the clients and on the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentray.client import AgentClient, AsyncAgentClient, Conflict
from agentray.protocol.runs import RunStatus
from tests.integration.test_cli_http import Shell
from tests.support.gateway import KEY, BreakableStore, Gateway, Http


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


async def test_a_delayed_prompt_is_a_202_with_its_time(
    gateway: Gateway, store: BreakableStore, http: Http
):
    status, run, headers = await http.prompt("Ada", agent="greeter/ada", delay_s=3600)

    assert (status, run["status"]) == (202, "queued")
    assert headers["location"] == f"/v1/runs/{run['id']}"
    left = datetime.fromisoformat(run["not_before"]) - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(hours=1)
    assert gateway.dispatcher.started == []
    due = await store.due_runs(datetime.now(UTC) + timedelta(hours=2))
    assert [stored.run.id for stored in due] == [run["id"]]


async def test_a_repeat_finds_the_delayed_run_and_another_delay_is_a_409(http: Http):
    ask: dict[str, Any] = {"Idempotency_Key": "k", "delay_s": 60}
    _, first, _ = await http.prompt("Ada", **ask)
    status, again, _ = await http.prompt("Ada", **ask)
    assert (status, again["id"]) == (202, first["id"])
    for other in ({"delay_s": 61}, {"delay_s": None}):
        status, problem, _ = await http.prompt("Ada", **{**ask, **other})
        assert (status, problem["run_id"]) == (409, first["id"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"delay_s": -1}, "delay_s"),
        ({"delay_s": 1e12}, "delay_s"),
        ({"delay_s": "1"}, "delay_s"),
        ({"at": "2026-01-01T12:00"}, "at"),
        ({"at": "soon"}, "at"),
        ({"at": "9999-12-31T23:59:59Z"}, "at"),
        ({"at": "9999-12-31T23:59:59-14:00"}, "at"),
        ({"at": "0001-01-01T00:00:00+14:00"}, "at"),
        ({"delay_s": 1, "at": "2026-01-01T12:00Z"}, "at"),
    ],
)
async def test_a_wrong_time_is_a_422_that_names_the_field(
    http: Http, body: dict[str, Any], field: str
):
    status, problem, _ = await http.prompt("Ada", **body)
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_a_time_beyond_the_calendar_is_a_422_wherever_it_is_said(http: Http):
    _, run, _ = await http.prompt("Ada")
    for beyond in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00%2B14:00"):
        status, problem = await http.get(f"/v1/runs/{run['id']}/trace?newer_than={beyond}")
        assert (status, problem["errors"][0]["field"]) == (422, "newer_than")
    schedule = {"id": "s", "prompt": "x", "every_s": 60}
    for field, at in (
        ("ends_at", "9999-12-31T23:59:59-14:00"),
        ("starts_at", "9999-12-31T23:59:59Z"),  # it was kept, and could never be shown again
    ):
        asked = {**schedule, field: at}
        status, problem, _ = await http.ask("POST", "/v1/schedules", body=asked)
        assert (status, problem["errors"][0]["field"]) == (422, field)
    status, _, _ = await http.ask(
        "POST", "/v1/schedules", body={**schedule, "ends_at": "9999-12-31T23:59:59Z"}
    )
    assert status == 201
    assert (await http.get("/v1/schedules"))[0] == 200


async def test_both_clients_ask_for_later(gateway: Gateway):
    when = datetime.now(UTC) + timedelta(days=1)
    async with AsyncAgentClient(gateway.url, KEY) as client:
        delayed = await client.prompt("Ada", delay_s=60, idempotency_key="k")
        assert (delayed.status, delayed.not_before is not None) == (RunStatus.QUEUED, True)
        with pytest.raises(Conflict):
            await client.prompt("Ada", delay_s=70, idempotency_key="k")

    def ask() -> datetime | None:
        with AgentClient(gateway.url, KEY) as client:
            return client.prompt("Ada", at=when).not_before

    assert await asyncio.to_thread(ask) == when


async def test_the_command_prints_the_run_that_begins_later(shell: Shell):
    done = await shell("prompt", "Ada", "--in", "2h", "--json")
    assert done.exit_code == 0
    run = json.loads(done.stdout)
    assert (run["status"], "not_before" in run) == ("queued", True)

    done = await shell("prompt", "Ada", "--at", "2099-01-31T12:00+01:00")
    assert done.stdout.startswith("run_")
    shown = await shell("run", done.stdout.strip())
    assert "2099-01-31" in shown.stdout


@pytest.mark.parametrize(
    "words", [("--in", "soon"), ("--at", "noon"), ("--in", "1s", "--at", "2099-01-01"),
              ("--in", "1s", "--stream")]
)  # fmt: skip
async def test_a_wrong_time_on_the_command_line_is_told(shell: Shell, words: tuple[str, ...]):
    done = await shell("prompt", "Ada", *words)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
