"""The gateway over real HTTP: every status it promises, streams, and what survives a hang-up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray.errors import (
    ChannelClosed,
    DeploymentStopped,
    NoHandler,
    Overloaded,
    StoreUnavailable,
)
from agentray.protocol.runs import RunStatus
from tests.support.eventually import eventually_async
from tests.support.gateway import (
    INVOKE_KEY,
    KEY,
    READ_KEY,
    REVOKED_KEY,
    BreakableStore,
    Gateway,
    Http,
    Json,
    as_new,
)

# Prompts


async def test_a_prompt_answers_with_its_ended_run(http: Http):
    status, run, _ = await http.prompt("Ada", agent="greeter/ada")
    assert status == 200
    assert (run["status"], run["result"]) == ("succeeded", {"text": "Hello, Ada!"})
    assert run["agent"] == "greeter/ada"
    assert run["correlation_id"] == run["id"]


async def test_without_a_key_of_the_agent_each_run_has_an_instance_of_its_own(http: Http):
    (_, first, _), (_, second, _) = await http.prompt(), await http.prompt(agent="greeter")
    assert first["agent"] == f"greeter/{first['id']}"
    assert second["agent"] == f"greeter/{second['id']}"


async def test_a_run_that_fails_is_a_200_with_its_status(http: Http):
    status, run, _ = await http.prompt("fail")
    assert status == 200
    assert (run["status"], run["error"]["type"]) == ("failed", "ValueError")


async def test_a_prompt_that_goes_on_is_a_202_with_its_place(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    status, run, headers = await http.prompt(wait_s=0.05)
    assert (status, run["status"]) == (202, "queued")
    assert headers["location"] == f"/v1/runs/{run['id']}"
    gateway.dispatcher.gate.set()
    status, run = await http.get(headers["location"] + "?wait_s=10")
    assert (status, run["status"]) == (200, "succeeded")


async def test_prompts_that_arrive_together_are_committed_together(
    store: BreakableStore, http: Http
):
    store.commit_s = 0.25  # what arrives meanwhile is together, also on a machine that is slow
    answers = await asyncio.gather(*(http.prompt(str(n)) for n in range(40)))
    assert [answer[1]["result"]["text"] for answer in answers] == [
        f"Hello, {n}!" for n in range(40)
    ]
    assert sum(store.admitted) == 40
    assert len(store.admitted) < 20


@pytest.mark.parametrize("error", [DeploymentStopped("greeter"), ChannelClosed(), ValueError("?")])
async def test_an_accepted_prompt_that_finds_no_host_is_a_202(
    gateway: Gateway, http: Http, error: Exception
):
    gateway.dispatcher.refuses = error
    status, run, _ = await http.prompt()
    assert (status, run["status"]) == (202, "queued")


async def test_a_client_that_hangs_up_stops_nothing(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    asking = asyncio.create_task(http.prompt())
    await eventually_async(lambda: _value(gateway.dispatcher.started))
    asking.cancel()
    gateway.dispatcher.gate.set()
    (run_id,) = gateway.dispatcher.started
    await eventually_async(lambda: _has_ended(gateway, run_id))


@pytest.mark.parametrize("while_committing", [True, False])
async def test_a_cancelled_handler_stops_nothing(gateway: Gateway, while_committing: bool):
    """Ray Serve cancels the handler when its client disconnects, uvicorn does not."""
    gateway.dispatcher.gate.clear()
    request = asyncio.create_task(_call_app(gateway))
    if while_committing:
        store = gateway.store
        assert isinstance(store, BreakableStore)
        await eventually_async(lambda: _value(store.admitted), interval_s=0.001)
    else:
        await eventually_async(lambda: _value(gateway.dispatcher.started))
    request.cancel()
    await asyncio.wait((request,))
    assert request.cancelled()
    gateway.dispatcher.gate.set()
    run_ids = await eventually_async(lambda: _value(gateway.dispatcher.started))
    await eventually_async(lambda: _has_ended(gateway, run_ids[0]))


async def _call_app(gateway: Gateway) -> None:
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/prompts", "raw_path": b"/v1/prompts", "query_string": b"", "root_path": "",
        "scheme": "http", "headers": headers, "server": ("localhost", 80), "client": None,
    }  # fmt: skip

    async def receive() -> Json:
        return {"type": "http.request", "body": b'{"prompt": "Ada"}', "more_body": False}

    async def send(_message: Any) -> None:
        raise AssertionError("no answer was to be sent")

    await gateway.app(scope, receive, send)


async def _value(items: list[Any]) -> list[Any]:
    return items


async def _has_ended(gateway: Gateway, run_id: str) -> bool:
    stored = await gateway.store.get_run(run_id)
    return stored is not None and stored.run.status is RunStatus.SUCCEEDED


# Idempotency


async def test_a_repeat_finds_the_same_run(gateway: Gateway, http: Http):
    _, first, _ = await http.prompt(Idempotency_Key="order 17", wait_s=19)
    status, second, _ = await http.prompt(Idempotency_Key="order 17", wait_s=20)
    assert (status, second["id"]) == (200, first["id"])
    assert len(gateway.dispatcher.started) == 1


async def test_a_repeat_while_the_run_goes_on_waits_for_the_same_run(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    _, first, _ = await http.prompt(Idempotency_Key="k", wait_s=0)
    second = asyncio.create_task(http.prompt(Idempotency_Key="k", wait_s=10))
    status, third, _ = await http.prompt(Idempotency_Key="k", wait_s=0.01)
    assert (status, third["id"]) == (202, first["id"])
    gateway.dispatcher.gate.set()
    status, run, _ = await second
    assert (status, run["status"], run["id"]) == (200, "succeeded", first["id"])


async def test_a_repeat_of_a_run_driven_elsewhere_joins_it(gateway: Gateway, http: Http):
    gateway.dispatcher.refuses = DeploymentStopped("greeter")
    _, first, _ = await http.prompt(Idempotency_Key="k", agent="greeter/ada", wait_s=0)
    joining = asyncio.create_task(http.prompt(Idempotency_Key="k", agent="greeter/ada"))
    gateway.dispatcher.refuses = None
    await gateway.dispatcher.run(as_new(await gateway.store.get_run(first["id"])))
    status, run, _ = await joining
    assert (status, run["id"], run["status"]) == (200, first["id"], "succeeded")


async def test_the_same_key_with_another_body_is_a_409_that_names_the_run(http: Http):
    _, first, _ = await http.prompt("Ada", Idempotency_Key="k")
    status, problem, _ = await http.prompt("Bob", Idempotency_Key="k")
    assert (status, problem["run_id"]) == (409, first["id"])


async def test_keys_of_different_callers_are_apart(http: Http):
    _, first, _ = await http.prompt(Idempotency_Key="k")
    _, second, _ = await http.prompt(Idempotency_Key="k", key=INVOKE_KEY)
    assert first["id"] != second["id"]


@pytest.mark.parametrize("value", ["x" * 256, "\u00fc"])
async def test_a_malformed_idempotency_key_is_a_422(http: Http, value: str):
    status, problem, _ = await http.prompt(Idempotency_Key=value)
    assert (status, problem["errors"][0]["field"]) == (422, "Idempotency-Key")


# Wrong requests


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["prompt"]),
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": 7}, ["prompt"]),
        ({"prompt": "nul \0"}, ["prompt"]),
        ({"prompt": "x", "agent": "no spaces"}, ["agent"]),
        ({"prompt": "x", "agent": "greeter/"}, ["agent"]),
        ({"prompt": "x", "wait_s": "5", "stream": 1}, ["wait_s", "stream"]),
        ({"prompt": "x", "wait_s": -1}, ["wait_s"]),
        ({"prompt": "x", "wait_s": 21}, ["wait_s"]),
        ({"prompt": "x", "wait": 5}, ["wait"]),
        ("[]", [""]),
    ],
)
async def test_wrong_fields_are_a_422_that_names_them(http: Http, body: Any, fields: list[str]):
    status, problem, _ = await http.ask("POST", "/v1/prompts", body=body)
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == fields
    assert {error["location"] for error in problem["errors"]} == {"body"}


@pytest.mark.parametrize("body", ["", "{", "prompt", b"\xff\xfe", "[" * 1900])
async def test_a_body_that_is_not_json_is_a_400(http: Http, body: Any):
    assert (await http.ask("POST", "/v1/prompts", body=body))[0] == 400


async def test_nothing_is_stored_for_a_prompt_that_nobody_takes(gateway: Gateway, http: Http):
    status, problem, _ = await http.prompt(agent="greter/ada")
    assert (status, problem["detail"]) == (
        404,
        "There is no agent type 'greter'. Known types: greeter.",
    )
    gateway.dispatcher.stopped = NoHandler("greeter", "Prompt")
    assert (await http.prompt())[0] == 422
    assert await gateway.store.list_runs() == []


async def test_a_large_body_is_a_413(http: Http):
    assert (await http.prompt("x" * 2000))[0] == 413


async def test_a_large_body_without_a_length_is_a_413_while_it_is_read(gateway: Gateway):
    """The body never ends: only a gateway that stops reading can answer."""
    address = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address[0], int(address[1]))
    head = (
        "POST /v1/prompts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {KEY}\r\n\r\n"
    )
    chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    writer.write(head.encode() + chunk * 2)
    await writer.drain()
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()


async def test_unknown_paths_and_methods_are_problems(http: Http):
    assert (await http.get("/v1/nothing"))[0] == 404
    assert (await http.get("/v1/runs//"))[0] == 404
    status, _, headers = await http.ask("DELETE", "/v1/runs")
    assert (status, headers["allow"]) == (405, "GET")


# Keys


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bEaReR  {KEY}", KEY])
async def test_a_key_comes_as_bearer_or_bare(http: Http, header: str):
    assert (await http.get("/v1/runs", key=None, Authorization=header))[0] == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", f"Bearer {REVOKED_KEY}"]
)
async def test_wrong_keys_are_a_401(http: Http, header: str):
    status, _, headers = await http.ask("GET", "/v1/runs", key=None, Authorization=header)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")


async def test_a_key_is_asked_for_before_anything_else_is_looked_at(http: Http):
    assert (await http.ask("POST", "/v1/prompts", key=None, body="{"))[0] == 401
    assert (await http.ask("POST", "/v1/prompts", key=None, body="x" * 3000))[0] == 401
    assert (await http.get("/v1/runs?limit=x", key=None))[0] == 401


async def test_every_route_under_v1_needs_a_key(gateway: Gateway, http: Http):
    paths: Json = gateway.app.openapi()["paths"]
    routes = [
        (method, path.replace("{run_id}", "run_1"), operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if path.startswith("/v1")
    ]
    assert len(routes) >= 6
    for method, path, operation in routes:
        assert (await http.ask(method.upper(), path, key=None))[0] == 401, path
        assert operation["security"] == [{"api_key": []}]


async def test_scopes(http: Http):
    assert (await http.prompt(key=READ_KEY))[0] == 403
    assert (await http.get("/v1/runs", key=INVOKE_KEY))[0] == 403
    assert (await http.prompt(key=INVOKE_KEY))[0] == 200
    assert (await http.get("/v1/runs", key=READ_KEY))[0] == 200


async def test_keys_are_looked_up_once_however_many_requests_come(
    store: BreakableStore, http: Http
):
    await asyncio.gather(*(http.get("/v1/runs") for _ in range(20)))
    assert store.key_queries == 1


# Not now


async def test_an_unreachable_store_is_a_503(store: BreakableStore, http: Http):
    await http.get("/v1/runs")  # so that the key is known
    store.broken = StoreUnavailable("connection to 10.1.2.3 refused")
    status, problem, headers = await http.prompt()
    assert (status, headers["retry-after"]) == (503, "1")
    assert "10.1.2.3" not in json.dumps(problem)
    assert (await http.get("/v1/runs/run_1"))[0] == 503


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [(DeploymentStopped("greeter", 2.5), 503, "3"), (Overloaded("greeter", 0.2), 429, "1")],
)
async def test_a_prompt_that_cannot_be_taken_now_says_when_to_come_back(
    gateway: Gateway, http: Http, error: Exception, status: int, seconds: str
):
    gateway.dispatcher.stopped = error
    answer, _, headers = await http.prompt()
    assert (answer, headers["retry-after"]) == (status, seconds)
    assert await gateway.store.list_runs() == []


async def test_an_unexpected_error_is_a_500_without_internals(
    gateway: Gateway, http: Http, caplog: pytest.LogCaptureFixture
):
    gateway.dispatcher.stopped = RuntimeError("password=hunter2")
    status, problem, _ = await http.prompt()
    assert status == 500
    assert "hunter2" not in json.dumps(problem)
    assert problem["id"] in caplog.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
async def test_loopback_names_are_served(http: Http, host: str):
    assert (await http.get("/healthz", key=None, Host=host))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil", ""])
async def test_other_names_are_misdirected(http: Http, host: str):
    status, _, headers = await http.ask("GET", "/healthz", Host=host)
    assert status == 421
    assert not [name for name in headers if name.startswith("access-control")]


async def test_a_gateway_for_others_serves_any_name(tmp_path: Path):
    gateway = Gateway(BreakableStore(), tmp_path, host="0.0.0.0")
    async with gateway.serving(), aiohttp.ClientSession() as session:
        http = Http(gateway.url, session)
        assert (await http.get("/healthz", key=None, Host="gateway.example"))[0] == 200
