"""Schedules over HTTP, with the clients and on the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from agentray.client import AgentClient, AsyncAgentClient, Conflict, InvalidRequest, NotFound
from tests.integration.test_cli_http import Shell
from tests.support.gateway import KEY, READ_KEY, BreakableStore, Gateway, Http

TEA: dict[str, Any] = {"id": "tea", "prompt": "tea", "agent": "greeter/ada", "every_s": 3600}


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


async def create(http: Http, **more: Any) -> tuple[int, dict[str, Any]]:
    body = {name: value for name, value in {**TEA, **more}.items() if value is not None}
    status, answer, _ = await http.ask("POST", "/v1/schedules", body=body)
    return status, answer


async def test_a_schedule_is_made_once_and_shows_its_next_times(http: Http):
    status, made, headers = await http.ask("POST", "/v1/schedules", body=TEA)
    assert (status, headers["location"]) == (201, "/v1/schedules/tea")
    assert (made["id"], made["status"], made["spec"]["agent"]) == ("tea", "active", "greeter/ada")
    times = [datetime.fromisoformat(at) for at in made["next_times"]]
    assert len(times) == 5
    assert times[1] - times[0] == timedelta(hours=1)

    assert await create(http) == (200, made)
    assert await http.get("/v1/schedules/tea") == (200, made)
    status, problem = await create(http, prompt="cake")
    assert (status, problem["type"]) == (409, "urn:agentray:problem:taken")


async def test_without_an_agent_it_is_the_entry_of_the_app(http: Http):
    status, made = await create(http, agent=None, every_s=None, cron="0 3 * * *")
    assert (status, made["spec"]["agent"]) == (201, "greeter")


async def test_schedules_are_listed_page_by_page(http: Http):
    for name in ("c", "a", "b"):
        await create(http, id=name)
    _, page = await http.get("/v1/schedules?limit=2")
    assert ([s["id"] for s in page["schedules"]], page["next"]) == (["a", "b"], "b")
    _, page = await http.get("/v1/schedules?limit=2&after=b")
    assert ([s["id"] for s in page["schedules"]], page["next"]) == (["c"], None)


async def test_it_is_replaced_paused_resumed_fired_and_deleted(http: Http, store: BreakableStore):
    await create(http)
    body = {"prompt": "cake", "agent": "greeter", "cron": "0 3 * * *", "timezone": "Asia/Tokyo"}
    status, replaced, _ = await http.ask("PUT", "/v1/schedules/tea", body=body)
    assert (status, replaced["spec"]["prompt"]) == (200, "cake")
    assert replaced["next_at"].endswith("T18:00:00Z")

    status, paused, _ = await http.ask("POST", "/v1/schedules/tea/pause")
    assert (status, paused["status"], paused["next_times"]) == (200, "paused", [])
    status, run, headers = await http.ask("POST", "/v1/schedules/tea/trigger")
    assert (status, run["status"], run["schedule"]) == (202, "queued", "tea")
    assert headers["location"] == f"/v1/runs/{run['id']}"
    assert await store.get_run(run["id"]) is not None
    status, resumed, _ = await http.ask("POST", "/v1/schedules/tea/resume")
    assert (status, resumed["status"], resumed["fired"]) == (200, "active", 1)

    async with http.session.delete(
        f"{http.url}/v1/schedules/tea", headers={"Authorization": f"Bearer {KEY}"}
    ) as answer:
        assert answer.status == 204
    assert (await http.get("/v1/schedules/tea"))[0] == 404


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"cron": "* * * * *"}, "cron"),
        ({"every_s": None}, "cron"),
        ({"every_s": None, "cron": "99 * * * *"}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"every_s": 0}, "every_s"),
        ({"missed": "some"}, "missed"),
        ({"missed": "all"}, "overlap"),
        ({"starts_at": "2026-01-01T12:00"}, "starts_at"),
        ({"ends_at": "2020-01-01T12:00Z"}, "ends_at"),
        ({"id": "no/id"}, "id"),
        ({"prompt": None}, "prompt"),
        ({"agent": "/"}, "agent"),
        ({"event": {}}, "event"),
    ],
)
async def test_a_wrong_field_is_a_422_that_names_it(http: Http, more: dict[str, Any], field: str):
    status, problem = await create(http, **more)
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_what_is_not_there_is_a_404(http: Http):
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/trigger")):
        status, _, _ = await http.ask(method, f"/v1/schedules/nope{path}")
        assert status == 404
    status, problem = await create(http, agent="nobody")
    assert (status, "nobody" in problem["detail"]) == (404, True)
    assert (await http.get("/v1/schedules/%00"))[0] == 404


async def test_who_may_only_read_makes_none(http: Http):
    status, _, _ = await http.ask("POST", "/v1/schedules", body=TEA, key=READ_KEY)
    assert status == 403
    assert (await http.get("/v1/schedules", key=READ_KEY))[0] == 200


async def test_both_clients_look_after_schedules(gateway: Gateway):
    async with AsyncAgentClient(gateway.url, KEY) as client:
        made = await client.schedules.create("tea", prompt="tea", every_s=60)
        assert await client.schedules.create("tea", prompt="tea", every_s=60) == made
        with pytest.raises(Conflict):
            await client.schedules.create("tea", prompt="cake", every_s=60)
        with pytest.raises(InvalidRequest):
            await client.schedules.create("x", prompt="x", cron="no")
        assert (await client.schedules.replace("tea", prompt="cake", every_s=60)).revision == 2

    def rest() -> None:
        with AgentClient(gateway.url, KEY) as client:
            schedules = client.schedules
            assert schedules.get("tea").spec.prompt == "cake"
            assert [s.id for s in schedules.list().schedules] == ["tea"]
            assert schedules.pause("tea").status == "paused"
            assert schedules.resume("tea").status == "active"
            assert schedules.trigger("tea").schedule == "tea"
            assert schedules.create(prompt="x", every_s=60).id.startswith("sched_")
            schedules.delete("tea")
            with pytest.raises(NotFound):
                schedules.get("tea")

    await asyncio.to_thread(rest)


async def test_the_commands(shell: Shell):
    done = await shell(
        "schedules", "create", "tea", "Sum up.", "--cron", "30 2 * * *",
        "--timezone", "Europe/Berlin", "--overlap", "enqueue", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done
    made = json.loads(done.stdout)
    assert (made["id"], made["spec"]["overlap"]) == ("tea", "enqueue")

    assert "30 2 * * * (Europe/Berlin)" in (await shell("schedules", "list")).stdout
    assert "Sum up." in (await shell("schedules", "show", "tea")).stdout
    done = await shell("schedules", "create", "tea", "Again.", "--every", "15m", "--replace")
    assert "every 900 s" in done.stdout
    assert (await shell("schedules", "pause", "tea")).stdout == "tea: paused\n"
    assert (await shell("schedules", "resume", "tea")).stdout == "tea: active\n"
    assert (await shell("schedules", "trigger", "tea")).stdout.startswith("run_")
    assert (await shell("schedules", "delete", "tea")).stdout == "tea: deleted\n"
    done = await shell("schedules", "show", "tea")
    assert (done.exit_code != 0, done.stderr.startswith("error: ")) == (True, True)
    assert (await shell("schedules", "list")).stdout == "There are no schedules.\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--every", "often"),
        ("--cron", "61 * * * *"),
        ("--every", "1h", "--webhook", "no url"),
        ("--every", "1h", "--webhook", "https://example.com/hook"),  # no secret signs it
        (),
    ],
)
async def test_a_wrong_command_is_told_in_one_paragraph(shell: Shell, words: tuple[str, ...]):
    done = await shell("schedules", "create", "tea", "x", *words)
    assert done.exit_code != 0
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
