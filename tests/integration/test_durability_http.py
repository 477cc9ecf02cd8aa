"""What of a prompt survives a host's death, chosen over HTTP, with the clients, in the shell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentray.client import AgentClient, AsyncAgentClient, Conflict
from agentray.protocol.budgets import Budget
from tests.integration.test_cli_http import Shell
from tests.support.gateway import KEY, BreakableStore, Gateway, Http


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


async def durability(store: BreakableStore, run_id: str) -> Any:
    stored = await store.get_run(run_id)
    assert stored is not None
    return stored.input.get("durability")


async def test_it_is_kept_with_the_run(store: BreakableStore, http: Http):
    for said, kept in (({"durability": "step"}, "step"), ({"durability": "run"}, None), ({}, None)):
        status, run, _ = await http.prompt("Ada", **said)
        assert (status, await durability(store, run["id"])) == (200, kept)


@pytest.mark.parametrize(
    "body",
    [
        {"durability": "none"},
        {"durability": "steps"},
        {"durability": 1},
    ],
)
async def test_a_wrong_one_is_a_422_that_names_the_field(http: Http, body: dict[str, Any]):
    status, problem, _ = await http.prompt("Ada", **body)
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == ["durability"]


async def test_it_is_a_part_of_what_a_repeat_must_ask_again(http: Http):
    _, first, _ = await http.prompt("Ada", Idempotency_Key="k", durability="step")
    status, again, _ = await http.prompt("Ada", Idempotency_Key="k", durability="step")
    assert (status, again["id"]) == (200, first["id"])
    status, problem, _ = await http.prompt("Ada", Idempotency_Key="k")
    assert (status, problem["run_id"]) == (409, first["id"])


async def test_both_clients_choose_it(gateway: Gateway, store: BreakableStore):
    async with AsyncAgentClient(gateway.url, KEY) as client:
        run = await client.prompt("Ada", durability="step", idempotency_key="k")
        assert await durability(store, run.id) == "step"
        with pytest.raises(Conflict):
            await client.prompt("Ada", idempotency_key="k")
        async for _ in client.stream("Ada", durability="step"):
            pass
        [streamed, *_] = (await client.runs(limit=1)).runs
        assert await durability(store, streamed.id) == "step"
        within = await client.prompt("Ada", durability="step", budget=Budget(tokens=1))
        assert within.status == "succeeded"

    def ask() -> list[str]:
        with AgentClient(gateway.url, KEY) as client:
            asked = client.prompt("Ada", durability="step")
            assert list(client.stream("Eve", durability="step"))[-1].kind == "succeeded"
            return [asked.id, client.runs(limit=1).runs[0].id]

    for run_id in await asyncio.to_thread(ask):
        assert await durability(store, run_id) == "step"


async def test_the_command_line_chooses_it(gateway: Gateway, shell: Shell, store: BreakableStore):
    for more in ([], ["--stream"]):
        result = await shell("prompt", "Ada", "--durability", "step", "--wait", "10", *more)
        assert result.exit_code == 0, result.stderr
        async with AsyncAgentClient(gateway.url, KEY) as client:
            [run] = (await client.runs(limit=1)).runs
        assert await durability(store, run.id) == "step"
    result = await shell("prompt", "Ada", "--durability", "step", "--max-tokens", "1")
    assert result.exit_code == 0, "it may have a budget"
    assert (await shell("prompt", "Ada", "--durability", "none")).exit_code == 2


async def test_the_openapi_document_tells_it(http: Http):
    _, document = await http.get("/openapi.json")
    body = document["paths"]["/v1/prompts"]["post"]["requestBody"]["content"]["application/json"]
    field = body["schema"]["properties"]["durability"]
    assert (field["enum"], field["default"]) == (["run", "step"], "run")
