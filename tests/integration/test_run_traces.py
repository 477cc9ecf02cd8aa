"""A traced run tells what it does while it does it: in its stream, and in pages."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray import Agent, App, Event, Prompt, action, on
from tests.support.eventually import eventually_async
from tests.support.gateway import Http
from tests.support.local_gateway import local_gateways

Json = dict[str, Any]
gate = asyncio.Event()


class Step(Event):
    number: int


class Walker(Agent):
    @on(Prompt)
    async def walk(self, prompt: Prompt) -> list[Step]:
        return [Step(number=n) for n in range(int(prompt.text))]


class Foot(Agent):
    @on(Step, key="field:number")
    async def step(self, step: Step) -> None:
        await self.handle(Shoe, str(step.number)).bend()
        if step.number == 0:
            await gate.wait()


class Shoe(Agent):
    @action
    async def bend(self) -> None:
        return


app = App("walking", [Walker, Foot, Shoe])


async def pages(http: Http, run_id: str, limit: int) -> tuple[list[Json], Json]:
    """Read a trace page by page, as far as it goes."""
    spans: list[Json] = []
    query = f"limit={limit}"
    while True:
        status, page = await http.get(f"/v1/runs/{run_id}/trace?{query}")
        assert status == 200, page
        assert len(page["spans"]) >= min(limit, 1) or not page["more"]
        spans += page["spans"]
        if not page["more"]:
            return spans, page
        query = f"limit={limit}&newer_than={page['next'].replace('+', '%2B')}"


async def traced(http: Http, **more: Any) -> Json:
    gate.clear()
    status, run, _ = await http.prompt("5", agent="walker/a", wait_s=0, **more)
    assert status == 202
    return run


@pytest.mark.parametrize(
    ("durability", "so_far"),
    # All but one of the five steps; of that one, its call is told with its own commit.
    [("run", 10), ("step", 9)],
)
async def test_the_trace_grows_while_the_run_goes_on_and_is_whole_at_its_end(
    tmp_path: Path, durability: str, so_far: int
):
    async with (
        local_gateways(app, home=tmp_path, hosts=3) as gateways,
        aiohttp.ClientSession() as session,
    ):
        http = Http(gateways.replicas[0].url, session)
        run = await traced(http, enable_trace=True, durability=durability)

        async def most() -> bool:
            spans, page = await pages(http, run["id"], 3)
            assert not page["complete"]
            return len(spans) == so_far

        await eventually_async(most)
        before, page = await pages(http, run["id"], 100)
        gate.set()
        async with gateways.client() as client:
            await client.run(run["id"], wait_s=10)
            spans, last = await pages(http, run["id"], 2)
            assert last["complete"]
            assert spans[: len(before)] == before
            assert len({span["id"] for span in spans}) == len(spans) == 11
            newer, _ = await pages(http, run["id"], 100)
            since = datetime.fromisoformat(page["next"])
            assert [s.id for s in await client.trace(run["id"], newer_than=since)] == [
                span["id"] for span in spans[len(before) :]
            ]
            assert newer == spans
            async with aclosing(client.events(run["id"])) as events:
                told = [event.data["id"] async for event in events if event.kind == "span"]
            assert told == [span["id"] for span in spans]


async def test_without_it_the_trace_comes_in_pages_when_the_run_has_ended(tmp_path: Path):
    async with (
        local_gateways(app, home=tmp_path, hosts=2) as gateways,
        aiohttp.ClientSession() as session,
    ):
        http = Http(gateways.replicas[0].url, session)
        run = await traced(http)
        status, page = await http.get(f"/v1/runs/{run['id']}/trace")
        assert (status, page) == (
            200, {"spans": [], "next": None, "more": False, "complete": False},
        )  # fmt: skip
        gate.set()
        async with gateways.client() as client:
            await client.run(run["id"], wait_s=10)
            whole = await client.trace(run["id"])
            assert len(whole) == 11
            async with aclosing(client.events(run["id"])) as events:
                assert [e.kind async for e in events if e.kind == "span"] == []
        last: Json = {}
        for limit in (1, 4, 11, 1000):
            spans, last = await pages(http, run["id"], limit)
            assert [span["id"] for span in spans] == [span.id for span in whole]
            assert last["complete"]
        late = datetime.fromisoformat(last["next"]) + timedelta(days=1)
        for after in (late.isoformat().replace("+", "%2B"), str(int(late.timestamp() * 1000))):
            status, page = await http.get(f"/v1/runs/{run['id']}/trace?newer_than={after}")
            assert (status, page["spans"], page["complete"]) == (200, [], True)


async def test_what_is_no_page_is_a_422_that_names_the_field(tmp_path: Path):
    async with (
        local_gateways(app, home=tmp_path, hosts=1) as gateways,
        aiohttp.ClientSession() as session,
    ):
        http = Http(gateways.replicas[0].url, session)
        for field, value in (
            ("newer_than", "yesterday"), ("newer_than", "2026-01-15T10:00:00"), ("limit", "0"),
            ("limit", "1001"), ("more", "1"),
        ):  # fmt: skip
            status, problem = await http.get(f"/v1/runs/run_1/trace?{field}={value}")
            assert (status, problem["errors"][0]["field"]) == (422, field)
        assert (await http.get("/v1/runs/run_1/trace"))[0] == 404
