"""The gateway over real HTTP: health, and looking at runs and their events."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from agentray.errors import DeploymentStopped, StoreUnavailable
from agentray.protocol.runs import RunEvent, RunStatus
from agentray.store.base import NewRun, RunEnd
from tests.support.gateway import KEY, BreakableStore, Gateway, Http, as_new, now

# Health


async def test_health_and_document_need_no_key(http: Http):
    assert await http.get("/healthz", key=None) == (200, {"status": "ok"})
    assert await http.get("/readyz", key=None) == (200, {"status": "ready"})
    status, document = await http.get("/openapi.json", key=None)
    assert status == 200
    assert set(re.findall(r'"[$]ref": "([^"]+)"', json.dumps(document))) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["tags"]
            assert operation["summary"] or operation["description"]


async def test_what_is_not_ready_is_named(gateway: Gateway, store: BreakableStore, http: Http):
    gateway.hosts.missing = ["no host of pool default is up"]
    store.broken = StoreUnavailable()
    status, problem, headers = await http.ask("GET", "/readyz", key=None)
    assert (status, headers["retry-after"]) == (503, "1")
    assert problem["missing"] == ["the database does not answer", "no host of pool default is up"]
    assert (await http.get("/healthz", key=None))[0] == 200


# Runs


async def test_runs_are_listed_newest_first_in_pages(http: Http):
    ids = [(await http.prompt(str(n)))[1]["id"] for n in range(5)]
    _, page = await http.get("/v1/runs?limit=3")
    assert [run["id"] for run in page["runs"]] == sorted(ids, reverse=True)[:3]
    _, rest = await http.get(f"/v1/runs?limit=3&before={page['next']}")
    assert [run["id"] for run in rest["runs"]] == sorted(ids, reverse=True)[3:]
    assert rest["next"] is None


async def test_what_is_no_id_of_a_run_is_no_place_to_go_on_from(http: Http):
    status, problem = await http.get("/v1/runs?before=bogus")
    assert (status, problem["errors"][0]["field"]) == (422, "before")


async def test_runs_are_filtered(http: Http):
    await http.prompt("Ada")
    _, failed, _ = await http.prompt("fail")
    _, page = await http.get("/v1/runs?status=failed&agent=greeter")
    assert [run["id"] for run in page["runs"]] == [failed["id"]]
    assert (await http.get("/v1/runs?agent=other"))[1] == {"runs": [], "next": None}
    _, bob, _ = await http.prompt("Bob", agent="greeter/bob")
    _, page = await http.get("/v1/runs?agent=greeter/bob")
    assert [run["id"] for run in page["runs"]] == [bob["id"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("agent=greeter/", "agent"),
        ("agent=a%20b", "agent"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("status=lost", "status"),
        ("x=1", "x"),
    ],
)
async def test_wrong_queries_are_a_422_that_names_the_field(http: Http, query: str, field: str):
    status, problem = await http.get(f"/v1/runs?{query}")
    assert status == 422
    assert [(e["field"], e["location"]) for e in problem["errors"]] == [(field, "query")]


async def test_unknown_runs_are_a_404(http: Http):
    for path in ("/v1/runs/nope", "/v1/runs/nope/events", "/v1/runs/nope/trace", "/v1/runs/%00"):
        assert (await http.get(path))[0] == 404, path


async def test_waiting_for_a_run_ends_with_the_wait(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    _, run, _ = await http.prompt(wait_s=0)
    status, run = await http.get(f"/v1/runs/{run['id']}?wait_s=0.05")
    assert (status, run["finished_at"]) == (200, None)
    assert (await http.get(f"/v1/runs/{run['id']}?wait_s=-1"))[0] == 422


async def test_waiting_goes_on_while_the_host_is_being_replaced(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    gateway.dispatcher.away = DeploymentStopped("greeter")
    _, run, _ = await http.prompt(wait_s=0)
    waiting = asyncio.create_task(http.get(f"/v1/runs/{run['id']}?wait_s=15"))
    gateway.dispatcher.gate.set()
    assert (await waiting)[1]["status"] == "succeeded"


async def test_the_trace_of_a_run(http: Http):
    _, run, _ = await http.prompt()
    _, trace = await http.get(f"/v1/runs/{run['id']}/trace")
    assert [span["event"] for span in trace["spans"]] == ["Prompt"]


# Events


async def test_a_prompt_can_answer_with_its_events(http: Http):
    body = {"prompt": "Ada", "stream": True}
    for asking in (
        {"json": body},
        {"json": {"prompt": "Ada"}, "headers": {"Accept": "text/event-stream"}},
    ):
        events = await http.events("/v1/prompts", "POST", **asking)
        assert [(e[0], e[1]) for e in events] == [
            ("0", "started"), ("1", "text_delta"), ("2", "succeeded"),
        ]  # fmt: skip
        assert RunEvent.model_validate(events[1][2]).data == {"text": "Hello"}


async def test_events_come_while_the_run_goes_on(gateway: Gateway, http: Http):
    gateway.dispatcher.gate.clear()
    _, run, _ = await http.prompt(wait_s=0)
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{http.url}/v1/runs/{run['id']}/events"
    async with http.session.get(url, headers=headers) as answer:
        assert await answer.content.readline() == b"id: 0\n"
        gateway.dispatcher.gate.set()
        assert b"event: succeeded" in await answer.content.read()


async def test_events_resume_after_the_last_one_seen(http: Http):
    _, run, _ = await http.prompt()
    path = f"/v1/runs/{run['id']}/events"

    async def after(last: str) -> list[str]:
        return [e[0] for e in await http.events(path, headers={"Last-Event-ID": last})]

    assert [e[0] for e in await http.events(path)] == ["0", "1", "2"]
    assert await after("0") == ["1", "2"]
    assert await after("2") == []
    assert await after("99") == []


@pytest.mark.parametrize("value", ["-1", "x", "1.5.2", "1.", "", "9" * 19, "\u0663"])
async def test_a_malformed_last_event_id_is_a_400(http: Http, value: str):
    _, run, _ = await http.prompt()
    assert (await http.get(f"/v1/runs/{run['id']}/events", Last_Event_ID=value))[0] == 400


async def test_events_come_from_the_store_while_the_host_cannot_be_asked(
    gateway: Gateway, http: Http
):
    gateway.dispatcher.gate.clear()
    gateway.dispatcher.away = DeploymentStopped("greeter")
    _, run, _ = await http.prompt(wait_s=0)
    following = asyncio.create_task(http.events(f"/v1/runs/{run['id']}/events"))
    gateway.dispatcher.gate.set()
    assert [e[1] for e in await following] == ["started", "text_delta", "succeeded"]


async def test_a_quiet_stream_is_kept_alive(
    gateway: Gateway, http: Http, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("agentray.gateway.streaming.KEEPALIVE_S", 0.02)
    gateway.dispatcher.gate.clear()
    _, run, _ = await http.prompt(wait_s=0)
    headers = {"Authorization": f"Bearer {KEY}", "Last-Event-ID": "0"}
    url = f"{http.url}/v1/runs/{run['id']}/events"
    async with http.session.get(url, headers=headers) as answer:
        assert await answer.content.readline() == b": keepalive\n"


async def test_a_run_that_ended_without_a_terminal_event_gets_one_in_its_stream(
    gateway: Gateway, http: Http
):
    gateway.dispatcher.refuses = DeploymentStopped("greeter")
    _, run, _ = await http.prompt(wait_s=0)
    new = as_new(await gateway.store.get_run(run["id"]))
    await _end_without_event(gateway, new)
    events = await http.events(f"/v1/runs/{run['id']}/events")
    assert [(e[0], e[1]) for e in events] == [("0", "dead")]
    again = await http.events(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": "0"})
    assert again == []


async def _end_without_event(gateway: Gateway, run: NewRun) -> None:
    end = RunEnd(run.id, RunStatus.DEAD, None, None, None, now())
    await gateway.dispatcher.write(run, end=end)
