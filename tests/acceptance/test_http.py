"""The HTTP API of a real cluster, from the proxy to the database and back."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentray import ManagerClient
from tests.support import helpers
from tests.support.cluster import RIVER, Cluster, files_below, name_of, text_of
from tests.support.eventually import eventually_async
from tests.support.web import Answer, Web


async def test_a_prompt_is_answered_with_its_run(web: Web):
    answer = await web.prompt(RIVER, wait_s=30)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.body["status"] == "succeeded"
    assert "flood barrier" in answer.body["result"]["key_phrases"]
    again = await web.get(f"/v1/runs/{answer.body['id']}")
    assert again.body == answer.body
    listed = await web.get("/v1/runs?limit=1")
    assert listed.body["runs"] == [answer.body]
    trace = await web.get(f"/v1/runs/{answer.body['id']}/trace")
    assert len({span["agent"].partition("/")[0] for span in trace.body["spans"]}) == 4


async def test_who_does_not_wait_is_told_where_to_ask(web: Web, helper_app: str, tmp_path: Path):
    assert helper_app
    answer = await web.prompt(f"{tmp_path}/gate later", agent="waiter", wait_s=0)
    assert answer.status == 202
    location = answer.headers["location"]
    assert location == f"/v1/runs/{answer.body['id']}"
    assert answer.body["status"] in {"queued", "running"}
    (tmp_path / "gate").touch()
    ended = await web.get(f"{location}?wait_s=30")
    assert (ended.body["status"], ended.body["result"]) == ("succeeded", {"text": "later"})


def test_the_key_is_in_a_file_that_only_its_owner_can_read(cluster: Cluster):
    key_file = cluster.home / "api_key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((cluster.home / "cluster.json").stat().st_mode) == 0o600
    assert re.fullmatch(r"ar_[\w-]{43}", cluster.key)  # 256 bits


@pytest.mark.parametrize("authorization", ["", "Bearer ar_wrong", "Bearer", "Basic YTpi"], ids=repr)
async def test_without_a_valid_key_there_is_a_401(web: Web, authorization: str):
    for method, path in (("POST", "/v1/prompts"), ("GET", "/v1/runs"), ("GET", "/v1/runs/x")):
        answer = await web.ask(
            method, path, data=b"no JSON", headers={"Authorization": authorization}
        )
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_what_is_not_there_is_a_404(web: Web):
    unknown_agent = await web.prompt("Ada", agent="nobody")
    assert unknown_agent.status == 404
    assert "nobody" in unknown_agent.body["detail"]
    assert (await web.get("/v1/runs/run_none")).status == 404
    assert (await web.get("/v1/runs/run_none/events")).status == 404
    assert (await web.get("/v1/nothing")).status == 404


async def test_a_body_that_is_no_json_is_a_400(web: Web):
    for body in (b"no JSON", b"", b'{"prompt": "Ada"', b"\xff"):
        answer = await web.ask("POST", "/v1/prompts", data=body)
        assert answer.status == 400, (body, answer)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "Ada", "agent": "a b"}, "agent"),
        ({"prompt": "Ada", "wait_s": "1"}, "wait_s"),
        ({"prompt": "Ada", "wait_s": 61}, "wait_s"),
        ({"prompt": "Ada", "colour": "red"}, "colour"),
        ({"prompt": "Ada", "agent": "result_combiner"}, "agent"),
    ],
    ids=repr,
)
async def test_wrong_fields_are_a_422_that_names_them(
    web: Web, body: dict[str, object], field: str
):
    answer = await web.ask("POST", "/v1/prompts", json_body=body)
    assert answer.status == 422
    assert [error["field"] for error in answer.body["errors"]] == [field]


async def test_a_body_over_the_limit_is_a_413(web: Web):
    answer = await web.prompt("x" * 1_048_577)
    assert answer.status == 413
    assert "1048576" in answer.body["detail"]
    assert (await web.get("/healthz")).status == 200


async def test_a_web_page_under_another_name_is_a_421(web: Web):
    answer = await web.ask("GET", "/v1/runs", headers={"Host": "evil.example"})
    assert answer.status == 421
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_a_stopped_app_is_a_503_until_it_is_deployed_again(
    web: Web, cluster: Cluster, manager: ManagerClient, helper_app: str
):
    async def answer_of(status: int) -> Answer | None:
        answer = await web.prompt("Ada", agent="parrot", wait_s=30)
        return answer if answer.status == status else None

    stopped = await asyncio.to_thread(cluster.agentray, "stop", helper_app)
    assert stopped.exit_code == 0
    try:
        refused = await eventually_async(lambda: answer_of(503))
        assert refused is not None
        assert int(refused.headers["retry-after"]) >= 1
        assert (await web.prompt(RIVER, wait_s=30)).status == 200  # the other app goes on
    finally:
        assert await manager.deploy(helpers.app) == "started"
    again = await eventually_async(lambda: answer_of(200))
    assert again is not None
    assert again.body["result"] == {"text": "Ada"}


async def test_events_arrive_while_the_run_goes_on_and_can_be_resumed(
    web: Web, helper_app: str, tmp_path: Path
):
    assert helper_app
    body = {"prompt": f"{tmp_path}/gate done", "agent": "waiter", "stream": True}
    async with web.stream("POST", "/v1/prompts", json_body=body) as (head, events):
        path = head.headers["Location"]
        first = [await anext(events) for _ in range(3)]
        assert [event.kind for event in first] == ["queued", "started", "progress"]
        (tmp_path / "gate").touch()  # only now may it end
        rest = [event async for event in events]
    seen = [*first, *rest]
    assert seen[-1].kind == "succeeded"
    # What is shown before it is kept has its attempt in its id, too.
    assert [event.id.partition(".")[0] for event in seen] == [str(n) for n in range(len(seen))]
    assert [event.data["offset"] for event in seen] == list(range(len(seen)))
    async with web.stream("GET", f"{path}/events") as (_, events):
        kept = [event async for event in events]
    assert [event.id for event in kept] == [str(n) for n in range(len(seen))]
    shown = [{k: v for k, v in event.data.items() if k != "attempt"} for event in seen]
    assert [event.data for event in kept] == shown
    for last in ("1", seen[1].id):
        async with web.stream("GET", f"{path}/events", Last_Event_ID=last) as (_, events):
            assert [event async for event in events] == kept[2:]
    assert (await web.get(f"{path}/events", **{"Last-Event-ID": "x"})).status == 400


async def test_a_client_that_hangs_up_stops_nothing(
    web: Web, cluster: Cluster, helper_app: str, tmp_path: Path
):
    assert helper_app
    before = (await web.get("/v1/runs?limit=1")).body["runs"][0]["id"]

    async def running() -> str | None:
        newest = (await web.get("/v1/runs?limit=1&agent=waiter")).body["runs"]
        is_new = bool(newest) and newest[0]["id"] != before
        return newest[0]["id"] if is_new and newest[0]["status"] == "running" else None

    prompt = asyncio.create_task(web.prompt(f"{tmp_path}/gate alone", agent="waiter", wait_s=60))
    run_id = await eventually_async(running, timeout_s=30)
    prompt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await prompt
    (tmp_path / "gate").touch()
    async with cluster.client() as client:
        assert run_id is not None
        ended = await client.run(run_id, wait_s=60)
    assert (ended.status, ended.result, ended.attempt) == ("succeeded", {"text": "alone"}, 1)


async def test_a_repeated_request_finds_the_same_run(web: Web, tmp_path: Path):
    key = {"Idempotency-Key": f"test {tmp_path.name}"}
    first, *others = await asyncio.gather(
        *(web.prompt(RIVER, wait_s=30, headers=key) for _ in range(5))
    )
    assert first.status == 200
    assert {other.body["id"] for other in others} == {first.body["id"]}
    conflict = await web.prompt("Something else.", headers=key)
    assert (conflict.status, conflict.body["run_id"]) == (409, first.body["id"])


async def test_many_prompts_at_once_each_get_their_own_answer(web: Web, helper_app: str):
    assert helper_app
    texts = [f"text {n}" for n in range(100)]
    answers = await asyncio.gather(*(web.prompt(t, agent="parrot", wait_s=60) for t in texts))
    assert [answer.body["result"] for answer in answers] == [{"text": text} for text in texts]


async def test_health_and_description_need_no_key(web: Web):
    for path in ("/healthz", "/readyz"):
        answer = await web.ask("GET", path, headers={"Authorization": ""})
        assert answer.status == 200, path
    described = await web.ask("GET", "/openapi.json", headers={"Authorization": ""})
    assert described.status == 200
    runs = {"/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/events"}
    assert {"/v1/prompts", *runs} <= set(described.body["paths"])


def test_everything_listens_on_loopback_only(cluster: Cluster):
    """But for the one port that the README names: of each replica, for gRPC inside of Serve."""
    processes = {process.pid: process for process in cluster.processes()}
    listeners = [
        connection
        for connection in psutil.net_connections("tcp")
        if connection.pid in processes and connection.status == psutil.CONN_LISTEN
    ]
    names = [name_of(processes[listener.pid or 0]) for listener in listeners]
    # The public port, the statistics page and the metrics exporter.
    assert names.count("haproxy") >= 3
    assert "gcs_server" in names
    assert "postgres" in {name_of(process) for process in processes.values()}
    assert "postgres" not in names  # it has a socket in a directory of its own
    replicas = {process.pid for process in cluster.processes("ray::ServeReplica:agentray:gateway")}
    assert len(replicas) == 1
    open_to_all: list[Any] = [each for each in listeners if not _is_loopback(each.laddr)]
    assert {listener.pid for listener in open_to_all} <= replicas, open_to_all
    assert len(open_to_all) <= len(replicas)


def _is_loopback(address: Any) -> bool:
    parsed = ipaddress.ip_address(address.ip)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def test_prompts_and_keys_are_not_in_the_logs(cluster: Cluster):
    secret = "A sentence that nobody else would ever write: quetzal marmalade."
    done = cluster.agentray("prompt", secret, "--json")
    assert json.loads(done.stdout)["status"] == "succeeded"
    session = Path(cluster.record.local_cluster["session_dir"])
    logs = [file for file in files_below(cluster.home) if file.suffix == ".log"]
    told = [
        str(file)
        for file in (*files_below(session), *logs)
        if any(word in text_of(file) for word in ("quetzal marmalade", cluster.key))
    ]
    assert told == []
