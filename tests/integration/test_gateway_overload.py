"""More than the gateway takes: every request is answered, and what was accepted ends once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray.core.lifecycle import TERMINAL
from tests.support.eventually import eventually_async
from tests.support.gateway import INVOKE_KEY, BreakableStore, Gateway, Http

Serve = Callable[..., AbstractAsyncContextManager[tuple[Gateway, Http]]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve a gateway with limits of its own."""

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncGenerator[tuple[Gateway, Http]]:
        gateway = Gateway(BreakableStore(), tmp_path, max_wait_s=60, **settings)
        await gateway.prepare()
        connector = aiohttp.TCPConnector(limit=0)
        async with gateway.serving(), aiohttp.ClientSession(connector=connector) as session:
            yield gateway, Http(gateway.url, session)

    return serving


async def test_of_hundreds_of_prompts_those_within_the_limit_are_accepted_and_end_once(
    serve: Serve,
):
    async with serve(gateway_runs=40) as (gateway, http):
        gateway.dispatcher.gate.clear()
        asked = [asyncio.create_task(http.prompt(f"prompt {n}", wait_s=0)) for n in range(400)]
        answers = await asyncio.gather(*asked)
        assert Counter(status for status, _, _ in answers) == {202: 40, 429: 360}
        for status, problem, headers in answers:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                assert problem["type"] == "urn:agentray:problem:overloaded"

        gateway.dispatcher.gate.set()
        accepted = {run["id"] for status, run, _ in answers if status == 202}
        for run_id in accepted:
            _, run = await http.get(f"/v1/runs/{run_id}?wait_s=10")
            assert run["status"] == "succeeded"
        assert sorted(gateway.dispatcher.started) == sorted(accepted)  # each of them once
        kept = await gateway.store.list_runs(limit=1000)
        assert {run.id for run in kept} == accepted
        assert all(run.status in TERMINAL for run in kept)

        async def room() -> bool:
            return (await http.prompt("one more"))[0] == 200

        await eventually_async(room)


async def test_those_who_come_again_as_they_are_asked_are_all_served(serve: Serve):
    async with serve(gateway_runs=10) as (gateway, http):

        async def patient(number: int) -> str:
            while True:
                status, run, _ = await http.prompt(f"p{number}", Idempotency_Key=f"k{number}")
                if status == 200:
                    return run["id"]
                assert status == 429
                await asyncio.sleep(0.01)

        runs = await asyncio.gather(*(patient(n) for n in range(150)))
        assert len(set(runs)) == 150
        assert sorted(gateway.dispatcher.started) == sorted(runs)


async def test_one_key_does_not_take_the_place_of_the_others(serve: Serve):
    async with serve(gateway_runs_per_key=5) as (gateway, http):
        gateway.dispatcher.gate.clear()
        answers = await asyncio.gather(*(http.prompt("x", wait_s=0) for _ in range(50)))
        assert Counter(status for status, _, _ in answers) == {202: 5, 429: 45}
        refused = next(problem for status, problem, _ in answers if status == 429)
        assert "has too many runs under way; retry in 1 s." in refused["detail"]
        assert (await http.prompt("y", wait_s=0, key=INVOKE_KEY))[0] == 202


async def test_a_store_that_fails_takes_no_room_away(serve: Serve):
    async with serve(gateway_runs=3) as (gateway, http):
        store = gateway.store
        assert isinstance(store, BreakableStore)
        store.broken = OSError("away")
        for _ in range(5):
            assert (await http.prompt("x"))[0] == 500
        store.broken = None
        for _ in range(5):
            assert (await http.prompt("x", Idempotency_Key="same"))[0] == 200


async def test_of_hundreds_of_requests_that_wait_those_beyond_the_limit_are_refused_at_once(
    serve: Serve,
):
    async with serve(gateway_requests=25, gateway_streams=0) as (gateway, http):
        gateway.dispatcher.gate.clear()
        _, run, _ = await http.prompt("slow", wait_s=0)
        path = f"/v1/runs/{run['id']}"
        waiting = [asyncio.create_task(http.get(f"{path}?wait_s=60")) for _ in range(20)]
        following = [asyncio.create_task(http.events(f"{path}/events")) for _ in range(5)]

        async def full() -> bool:
            return (await http.get(path))[0] == 429

        await eventually_async(full, interval_s=0.01)
        refused = await asyncio.gather(*(http.ask("GET", path) for _ in range(300)))
        assert {(status, headers["retry-after"]) for status, _, headers in refused} == {(429, "1")}
        assert (await http.get("/healthz", key=None))[0] == 200
        assert (await http.get("/readyz", key=None))[0] == 200

        gateway.dispatcher.gate.set()
        assert {status for status, _ in await asyncio.gather(*waiting)} == {200}
        assert {events[-1][1] for events in await asyncio.gather(*following)} == {"succeeded"}
        assert (await http.get(path))[0] == 200
