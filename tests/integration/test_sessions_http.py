"""Sessions over HTTP, on two gateways before agents on local hosts."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray.protocol.runs import RunStatus
from tests.support.gateway import KEY, Http, api_key
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.support.session_agents import app, gates

ACME, OTHER = "secret-acme", "secret-other"


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    gates.clear()
    async with local_gateways(app, home=tmp_path, replicas=2, max_body_bytes=4000) as system:
        for secret, tenant in ((ACME, "acme"), (OTHER, "other")):
            key = replace(api_key(secret, "admin"), tenant=tenant)
            await system.runtime.store.put_key(key)
        yield system


@pytest.fixture
async def https(system: LocalGateways) -> AsyncGenerator[list[Http]]:
    async with aiohttp.ClientSession() as session:
        yield [Http(replica.url, session) for replica in system.replicas]


@pytest.fixture
def http(https: list[Http]) -> Http:
    return https[0]


async def make(http: Http, session_id: str = "s", **fields: Any) -> dict[str, Any]:
    body = {"id": session_id, "agent": "scribe", **fields}
    status, session, _ = await http.ask("POST", "/v1/sessions", body=body)
    assert status in {200, 201}, session
    return session


async def test_a_session_is_made_read_changed_and_deleted(http: Http):
    body = {"agent": "scribe", "labels": {"team": "blue"}, "ttl_s": 60, "metadata": {"a": [1]}}
    status, made, headers = await http.ask("POST", "/v1/sessions", body=body)
    assert (status, headers["etag"]) == (201, '"1"')
    assert headers["location"] == f"/v1/sessions/{made['id']}"
    assert made["agent"] == f"scribe/{made['id']}"
    assert made["access_level"] == "public"
    assert made["owner"] == f"key_{KEY}"
    assert await http.get(headers["location"]) == (200, made)

    status, changed, headers = await http.ask(
        "PATCH", f"/v1/sessions/{made['id']}", body={"title": "New"}, If_Match='"1"'
    )
    assert (status, changed["title"], headers["etag"]) == (200, "New", '"2"')
    assert changed["labels"] == {"team": "blue"}
    status, problem, _ = await http.ask(
        "PATCH", f"/v1/sessions/{made['id']}", body={"title": "Old"}, If_Match='"1"'
    )
    assert (status, problem["type"]) == (412, "urn:agentray:problem:version-mismatch")
    status, _, _ = await http.ask("DELETE", f"/v1/sessions/{made['id']}", If_Match='"1"')
    assert status == 412
    status, changed, _ = await http.ask(
        "PATCH", f"/v1/sessions/{made['id']}", body={"ttl_s": None}, If_Match="*"
    )
    assert (status, changed["expires_at"], changed["title"]) == (200, None, "New")
    status, _, _ = await http.ask("DELETE", f"/v1/sessions/{made['id']}")
    assert status == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/runs"), ("POST", "/copy")):
        status, _, _ = await http.ask(method, f"/v1/sessions/{made['id']}{path}")
        assert status == 404, (method, path)


async def test_sessions_are_listed_page_by_page(http: Http):
    for n in range(5):
        await make(http, f"s{n}", labels={"n": str(n), "odd": str(n % 2)})
    seen: list[str] = []
    path = "/v1/sessions?limit=2"
    while path:
        status, page = await http.get(path)
        assert status == 200
        seen += [each["id"] for each in page["sessions"]]
        path = f"/v1/sessions?limit=2&before={page['next']}" if page["next"] else ""
    assert seen == ["s4", "s3", "s2", "s1", "s0"]
    _, page = await http.get("/v1/sessions?label=odd:1&label=n:3")
    assert [each["id"] for each in page["sessions"]] == ["s3"]
    _, page = await http.get("/v1/sessions?agent=scribe/s2")
    assert [each["id"] for each in page["sessions"]] == ["s2"]
    _, page = await http.get(f"/v1/sessions?owner=key_{KEY}&agent=scribe&limit=200")
    assert len(page["sessions"]) == 5
    assert (await http.get("/v1/sessions?owner=nobody"))[1]["sessions"] == []


OVERFLOW = b'{"agent": "scribe", "metadata": {"a": 1e999}}'

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"agent": "scribe", "id": "a/b"}, "id"),
    ({"agent": "scribe", "id": ""}, "id"),
    ({"agent": "a b"}, "agent"),
    ({"agent": "deaf"}, "agent"),
    ({"agent": "scribe", "access_level": "root"}, "access_level"),
    ({"agent": "scribe", "ttl_s": 0}, "ttl_s"),
    ({"agent": "scribe", "ttl_s": 1e99}, "ttl_s"),
    ({"agent": "scribe", "labels": {"": "x"}}, "labels"),
    ({"agent": "scribe", "labels": {"a": 1}}, "labels"),
    ({"agent": "scribe", "labels": {"a": "\0"}}, "labels"),
    ({"agent": "scribe", "labels": {str(n): "" for n in range(65)}}, "labels"),
    ({"agent": "scribe", "title": "\0"}, "title"),
    ({"agent": "scribe", "title": "x" * 501}, "title"),
    ({"agent": "scribe", "metadata": 1}, "metadata"),
    ({"agent": "scribe", "what": 1}, "what"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
async def test_a_wrong_field_is_named(http: Http, body: dict[str, Any], field: str):
    status, problem, _ = await http.ask("POST", "/v1/sessions", body=body)
    assert status == 422
    assert problem["errors"][0]["field"].split(".")[0] == field


async def test_what_else_is_wrong_is_told(http: Http):
    await make(http)
    asked = http.ask
    assert (await asked("POST", "/v1/sessions", body="{"))[0] == 400
    assert (await asked("POST", "/v1/sessions", body={"agent": "nobody"}))[0] == 404
    assert (await asked("POST", "/v1/sessions", body=OVERFLOW))[0] == 422
    assert (await asked("POST", "/v1/sessions", body={"metadata": {"a": "x" * 4000}}))[0] == 413
    assert (await asked("POST", "/v1/sessions", body={"id": "s", "agent": "scribe"}))[0] == 200
    other = {"id": "s", "agent": "scribe", "title": "other"}
    assert (await asked("POST", "/v1/sessions", body=other))[0] == 409
    assert (await asked("POST", "/v1/sessions", body={"agent": "scribe/s"}))[0] == 409
    assert (await asked("PATCH", "/v1/sessions/s", body={"title": "x"}))[0] == 428
    assert (await asked("PATCH", "/v1/sessions/s", body={"title": "x"}, If_Match="x"))[0] == 422
    assert (await asked("PATCH", "/v1/sessions/s", body={"id": "x"}, If_Match="*"))[0] == 422
    assert (await asked("PATCH", "/v1/sessions/nope", body={}, If_Match="*"))[0] == 404
    assert (await asked("POST", "/v1/sessions/s/copy", body={"id": "s"}))[0] == 409
    for path in ("?label=x", "?limit=0", "?before=%00", "?agent=a%20b", "/s/runs?after=-1"):
        assert (await http.get(f"/v1/sessions{path}"))[0] == 422, path
    for path in ("/%00", "/%ff", "/nope/runs"):
        assert (await http.get(f"/v1/sessions{path}"))[0] == 404, path


async def test_prompts_in_a_session_say_what_is_wrong(http: Http):
    await make(http)
    for more, status, field in (
        ({"session": "nope"}, 404, None),
        ({"session": "a\0"}, 422, "session"),
        ({"session": "s", "agent": "scribe"}, 422, "agent"),
        ({"session": "s", "delay_s": 1}, 422, "delay_s"),
        ({"session": "s", "policy": "push"}, 422, "policy"),
        ({"policy": "reject"}, 422, "policy"),
    ):
        found, problem, _ = await http.prompt("x", **more)
        assert found == status, (more, problem)
        if field is not None:
            assert problem["errors"][0]["field"] == field


async def test_prompts_through_two_gateways_take_turns(https: list[Http]):
    await make(https[0])
    first = asyncio.create_task(https[0].prompt("wait", session="s"))
    await gates.until_begun("wait")
    second = asyncio.create_task(https[1].prompt("b", session="s"))
    status, accepted, _ = await https[0].prompt("c", session="s", wait_s=0)
    assert (status, accepted["status"], accepted["session"]) == (202, "queued", "s")
    status, problem, _ = await https[1].prompt("d", session="s", policy="reject")
    assert (status, problem["type"]) == (409, "urn:agentray:problem:session-busy")
    gates.gate("wait").set()
    answers = [await first, await second]
    assert [status for status, _, _ in answers] == [200, 200]
    assert answers[0][1]["id"] == problem["run_id"]
    _, last = await https[1].get(f"/v1/runs/{accepted['id']}?wait_s=10")
    assert {tuple(run["result"]["lines"]) for run in (answers[1][1], last)} <= {
        ("wait", "b"), ("wait", "b", "c"), ("wait", "c"), ("wait", "c", "b"),
    }  # fmt: skip
    _, page = await https[1].get("/v1/sessions/s/runs?limit=2")
    assert (page["runs"][0]["number"], page["runs"][0]["prompt"]) == (1, "wait")
    assert page["next"] == 2
    _, page = await https[1].get("/v1/sessions/s/runs?after=2")
    assert (len(page["runs"]), page["next"]) == (1, None)
    assert page["runs"][0]["run"]["status"] == RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("policy", "lines"), [("interrupt", ["a", "wait", "b"]), ("rollback", ["a", "b"])]
)
async def test_another_gateway_interrupts_what_is_under_way(
    https: list[Http], policy: str, lines: list[str]
):
    await make(https[0], agent="stubborn")
    await https[0].prompt("a", session="s")
    first = asyncio.create_task(https[0].prompt("wait", session="s"))
    await gates.until_begun("wait")
    status, run, _ = await https[1].prompt("b", session="s", policy=policy)
    assert (status, run["result"]) == (200, {"lines": lines})
    _, before, _ = await first
    assert before["status"] == "cancelled"
    _, page = await https[0].get("/v1/sessions/s/runs")
    shown = ["a", "wait", "b"] if policy == "interrupt" else ["a", "b"]
    assert [each["prompt"] for each in page["runs"]] == shown
    _, page = await https[0].get("/v1/sessions/s/runs?rolled_back=true")
    assert len(page["runs"]) == 3


async def test_an_idempotency_key_finds_the_prompt_of_a_session_again(http: Http):
    await make(http)
    _, first, _ = await http.prompt("a", session="s", Idempotency_Key="k")
    status, again, _ = await http.prompt("a", session="s", Idempotency_Key="k")
    assert (status, again["id"]) == (200, first["id"])
    status, problem, _ = await http.prompt("b", session="s", Idempotency_Key="k")
    assert (status, problem["run_id"]) == (409, first["id"])


async def test_a_prompt_of_a_session_is_streamed_from_its_turn_on(https: list[Http]):
    await make(https[0])
    first = asyncio.create_task(https[0].prompt("wait", session="s"))
    await gates.until_begun("wait")
    body = {"prompt": "b", "session": "s", "stream": True}
    streaming = asyncio.create_task(https[1].events("/v1/prompts", "POST", json=body))
    await asyncio.sleep(0.1)
    gates.gate("wait").set()
    events = await streaming
    assert [kind for _, kind, _ in events][-1] == "succeeded"
    assert events[-1][2]["data"]["result"]["lines"] == ["wait", "b"]
    await first


async def test_a_session_is_there_for_its_tenant_alone(http: Http):
    body = {"id": "t", "agent": "scribe"}
    status, made, _ = await http.ask("POST", "/v1/sessions", body=body, key=ACME)
    assert (status, made["tenant"]) == (201, "acme")
    assert (await http.get("/v1/sessions/t", key=ACME))[0] == 200
    assert (await http.get("/v1/sessions/t"))[0] == 200  # who belongs to no tenant sees all
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("GET", "/runs", {}),
        ("PATCH", "", {"If_Match": "*", "body": {"title": "x"}}),
        ("DELETE", "", {}),
        ("POST", "/copy", {}),
    ]
    for method, path, more in refused:
        status, _, _ = await http.ask(method, f"/v1/sessions/t{path}", key=OTHER, **more)
        assert status == 404, method
    assert (await http.prompt("x", session="t", key=OTHER))[0] == 404
    assert (await http.get("/v1/sessions", key=OTHER))[1]["sessions"] == []
    assert len((await http.get("/v1/sessions", key=ACME))[1]["sessions"]) == 1
    assert (await http.prompt("x", session="t", key=ACME))[0] == 200


async def test_what_was_cancelled_before_its_turn_has_not_begun(http: Http):
    await make(http)
    _, first, _ = await http.prompt("wait", session="s", wait_s=0)
    _, second, _ = await http.prompt("b", session="s", wait_s=0)
    await gates.until_begun("wait")
    _, second, _ = await http.ask("POST", f"/v1/runs/{second['id']}/cancel", body={"wait_s": 20})
    assert (second["status"], second["started_at"]) == ("cancelled", None)
    _, first, _ = await http.ask("POST", f"/v1/runs/{first['id']}/cancel", body={"wait_s": 20})
    assert first["status"] == "cancelled"
    assert first["started_at"] >= first["created_at"]


async def test_the_agent_of_a_session_is_there_for_its_tenant_alone(http: Http):
    body = {"id": "t", "agent": "scribe"}
    await http.ask("POST", "/v1/sessions", body=body, key=ACME)
    assert (await http.prompt("secret", session="t", key=ACME))[0] == 200
    chat = {"model": "scribe/t", "messages": [{"role": "user", "content": "x"}]}
    asks: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/prompts", {"prompt": "x", "agent": "scribe/t"}, 200),
        ("/v1/chat/completions", chat, 200),
        ("/v1/responses", {"model": "scribe/t", "input": "x"}, 200),
        ("/v1/async/prompt/start", {"request": {"prompt": "x"}, "agent": "scribe/t"}, 202),
        ("/v1/schedules", {"prompt": "x", "agent": "scribe/t", "every_s": 9000}, 201),
    ]
    for path, asked, _ in asks:
        status, answer, _ = await http.ask("POST", path, body=asked, key=OTHER)
        assert status == 404, (path, answer)
        assert "secret" not in str(answer)
    await http.ask("DELETE", "/v1/sessions/t", key=ACME)  # its state is forgotten behind that
    assert (await http.prompt("x", agent="scribe/t", key=OTHER))[0] == 404

    await http.ask("POST", "/v1/sessions", body={**body, "id": "u"}, key=ACME)
    for path, asked, expected in asks:
        text = str(asked).replace("scribe/t", "scribe/u")
        status, answer, _ = await http.ask("POST", path, body=ast.literal_eval(text), key=ACME)
        assert status == expected, (path, answer)
    assert (await http.prompt("x", agent="scribe/u"))[0] == 200  # of no tenant: sees all


async def test_a_copy_goes_on_where_the_session_stands(http: Http):
    await make(http, labels={"a": "b"})
    await http.prompt("one", session="s")
    status, copy, _ = await http.ask("POST", "/v1/sessions/s/copy", body={"id": "c"})
    assert (status, copy["copied_from"], copy["labels"]) == (201, "s", {"a": "b"})
    _, run, _ = await http.prompt("two", session="c")
    assert run["result"]["lines"] == ["one", "two"]
    _, page = await http.get("/v1/sessions/c/runs")
    assert [each["prompt"] for each in page["runs"]] == ["one", "two"]
