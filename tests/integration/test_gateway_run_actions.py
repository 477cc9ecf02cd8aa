"""The gateway over real HTTP: cancelling runs, their deadlines, and answers to their questions."""

from __future__ import annotations

import asyncio
import math

import pytest

from agentray.client import AgentClient, AsyncAgentClient, Conflict, InvalidRequest, NotFound
from agentray.errors import DeploymentStopped, HostDied, StoreUnavailable
from agentray.protocol.runs import RunStatus
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, READ_KEY, BreakableStore, Gateway, Http, Json


@pytest.fixture
async def run_id(gateway: Gateway, http: Http) -> str:
    """A run that is under way, and stays so until somebody ends it."""
    gateway.dispatcher.gate.clear()
    _, run, _ = await http.prompt("Ada", wait_s=0)
    return run["id"]


async def test_a_cancelled_run_is_returned_when_it_has_ended(http: Http, run_id: str):
    status, run, _ = await http.ask("POST", f"/v1/runs/{run_id}/cancel")
    assert (status, run["status"]) == (200, "cancelled")
    assert run["error"]["type"] == "Cancelled"
    assert (await http.get(f"/v1/runs/{run_id}"))[1] == run


async def test_a_run_that_still_cleans_up_is_a_202(gateway: Gateway, http: Http, run_id: str):
    gateway.dispatcher.cleaned.clear()
    path = f"/v1/runs/{run_id}/cancel"
    status, run, _ = await http.ask("POST", path, body={"wait_s": 0.05})
    assert (status, run["id"]) == (202, run_id)
    assert run["finished_at"] is None
    assert (await http.ask("POST", path, body={"wait_s": 0}))[0] == 202
    gateway.dispatcher.cleaned.set()
    status, run, _ = await http.ask("POST", path, body={"wait_s": 20})
    assert (status, run["status"]) == (200, "cancelled")


async def test_ended_runs_are_returned_as_they_are(http: Http):
    _, ended, _ = await http.prompt("Ada")
    assert (await http.ask("POST", f"/v1/runs/{ended['id']}/cancel"))[:2] == (200, ended)


async def test_a_run_without_a_host_is_cancelled(gateway: Gateway, http: Http, run_id: str):
    gateway.dispatcher.away = DeploymentStopped("greeter")
    status, run, _ = await http.ask("POST", f"/v1/runs/{run_id}/cancel")
    assert (status, run["status"]) == (200, "cancelled")


async def test_the_wish_outlives_the_host_that_was_asked(
    gateway: Gateway, store: BreakableStore, http: Http, run_id: str
):
    gateway.dispatcher.away = HostDied("greeter/ada", "host-1")
    cancelling = asyncio.create_task(http.ask("POST", f"/v1/runs/{run_id}/cancel"))

    async def wished() -> bool:
        stored = await store.get_run(run_id)
        return stored is not None and stored.cancelled

    await eventually_async(wished)
    gateway.dispatcher.away = None
    assert (await cancelling)[:1] == (200,)


async def test_what_cannot_be_cancelled(gateway: Gateway, store: BreakableStore, http: Http):
    for name in ("nope", "%00"):
        assert (await http.ask("POST", f"/v1/runs/{name}/cancel"))[0] == 404, name
    _, run, _ = await http.prompt("Ada")
    path = f"/v1/runs/{run['id']}/cancel"
    assert (await http.ask("POST", path, key=READ_KEY))[0] == 403
    assert (await http.ask("POST", path, key=None))[0] == 401
    assert (await http.ask("POST", path, body="{"))[0] == 400
    for body, field in (({"wait_s": 21}, "wait_s"), ({"wait_s": -1}, "wait_s"), ({"x": 1}, "x")):
        status, problem, _ = await http.ask("POST", path, body=body)
        assert (status, problem["errors"][0]["field"]) == (422, field)
    store.broken = StoreUnavailable()
    gateway.dispatcher.gate.clear()
    assert (await http.ask("GET", f"/v1/runs/{run['id']}"))[0] == 503


async def test_a_prompt_may_have_a_deadline(store: BreakableStore, http: Http):
    _, run, _ = await http.prompt("Ada", timeout_s=5.5)
    stored = await store.get_run(run["id"])
    assert stored is not None
    assert stored.input["timeout_s"] == 5.5
    for wrong in (0, -1, "5", 1e9):
        status, problem, _ = await http.prompt("Ada", timeout_s=wrong)
        assert (status, problem["errors"][0]["field"]) == (422, "timeout_s"), wrong


async def test_another_deadline_under_the_same_key_is_a_conflict(http: Http):
    _, first, _ = await http.prompt("Ada", timeout_s=5, **{"Idempotency-Key": "k"})
    _, again, _ = await http.prompt("Ada", timeout_s=5, **{"Idempotency-Key": "k"})
    assert again["id"] == first["id"]
    assert (await http.prompt("Ada", timeout_s=6, **{"Idempotency-Key": "k"}))[0] == 409


async def test_the_client_cancels(gateway: Gateway, run_id: str):
    async with AsyncAgentClient(gateway.url, KEY) as client:
        gateway.dispatcher.cleaned.clear()
        assert (await client.cancel(run_id, wait_s=0)).finished_at is None
        gateway.dispatcher.cleaned.set()
        assert (await client.cancel(run_id)).status is RunStatus.CANCELLED
        assert (await client.cancel(run_id)).status is RunStatus.CANCELLED
        with pytest.raises(NotFound):
            await client.cancel("run_0")


YES = {"approved": True}


async def answer(http: Http, run_id: str, body: object, **headers: str) -> tuple[int, Json]:
    path = f"/v1/runs/{run_id}/answer"
    return (await http.ask("POST", path, body=body, **headers))[:2]


async def test_a_run_that_asks_is_a_202_that_tells_the_question(http: Http):
    status, run, headers = await http.prompt("ask", wait_s=20)
    assert (status, run["status"]) == (202, "waiting")
    assert run["question"]["question"] == "Really?"
    assert headers["location"] == f"/v1/runs/{run['id']}"
    _, page = await http.get("/v1/runs?status=waiting")
    assert page["runs"] == [run]
    assert (await http.get(f"/v1/runs/{run['id']}?wait_s=20"))[1] == run, "nobody waits for it"


async def test_a_run_goes_on_with_its_answer(gateway: Gateway, http: Http):
    _, run, _ = await http.prompt("ask")
    gateway.dispatcher.answered.clear()
    status, going_on = await answer(http, run["id"], {"answer": YES, "wait_s": 0})
    assert (status, going_on["status"]) == (202, "queued")
    assert "question" not in going_on
    gateway.dispatcher.answered.set()
    _, ended = await http.get(f"/v1/runs/{run['id']}?wait_s=20")
    assert (ended["status"], ended["result"]) == ("succeeded", {"answers": [YES]})


async def test_a_wrong_answer_names_the_field_and_changes_nothing(http: Http):
    _, run, _ = await http.prompt("ask")
    wrong_ones: list[tuple[Json, str]] = [
        ({"answer": {"approved": 1}}, "answer.approved"),
        ({"answer": {"approved": math.nan}}, "answer.approved"),
        ({"answer": math.inf}, "answer"),
        ({"answer": {}}, "answer"),
        ({}, "answer"),
        ({"answer": YES, "wait_s": 99}, "wait_s"),
    ]
    for wrong, field in wrong_ones:
        status, problem = await answer(http, run["id"], wrong)
        assert status == 422
        assert [e["field"] for e in problem["errors"]] == [field]
    assert (await http.get(f"/v1/runs/{run['id']}"))[1] == run


async def test_an_answer_may_be_repeated_and_another_one_is_a_conflict(http: Http):
    _, run, _ = await http.prompt("ask")
    first = await answer(http, run["id"], {"answer": YES}, **{"Idempotency-Key": "k"})
    assert first[0] == 200
    assert await answer(http, run["id"], {"answer": YES}, **{"Idempotency-Key": "k"}) == first
    assert await answer(http, run["id"], {"answer": YES, "question": "qst_1"}) == first
    for body, key in (
        ({"answer": {"approved": False}}, "k"),
        ({"answer": {"approved": False}, "question": "qst_1"}, "l"),
        ({"answer": YES}, "m"),
    ):
        status, problem = await answer(http, run["id"], body, **{"Idempotency-Key": key})
        assert (status, problem["type"]) == (409, "urn:agentray:problem:not-waiting")
        assert problem["run_id"] == run["id"]
    assert (await answer(http, "run_0", {"answer": YES}))[0] == 404
    assert (await answer(http, "%00", {"answer": YES}))[0] == 404
    assert (await answer(http, run["id"], {"answer": YES}, key=READ_KEY))[0] == 403


async def test_a_stream_shows_the_question_and_goes_on_after_the_answer(http: Http):
    _, run, _ = await http.prompt("ask")
    following = asyncio.create_task(http.events(f"/v1/runs/{run['id']}/events"))
    assert (await answer(http, run["id"], {"answer": YES}))[0] == 200
    told = await following
    kinds = [kind for _, kind, _ in told]
    assert kinds == ["started", "waiting", "answered", "text_delta", "succeeded"]
    assert told[1][2]["data"]["question"]["question"] == "Really?"


async def test_the_clients_answer(gateway: Gateway):
    async with AsyncAgentClient(gateway.url, KEY) as client:
        asked = await client.prompt("ask", wait_s=100)
        assert asked.status is RunStatus.WAITING
        with pytest.raises(InvalidRequest) as wrong:
            await client.answer(asked.id, {"approved": 1})
        assert wrong.value.errors[0]["field"] == "answer.approved"
        ended = await client.answer(asked.id, YES)
        assert ended.result == {"answers": [YES]}
        with pytest.raises(Conflict):
            await client.answer(asked.id, YES)

    def ask() -> object:
        with AgentClient(gateway.url, KEY) as blocking:
            again = blocking.prompt("ask")
            return blocking.answer(again.id, YES, question="qst_1").result

    assert await asyncio.to_thread(ask) == {"answers": [YES]}
