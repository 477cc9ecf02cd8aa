"""Both clients against a real gateway, also one that fails for a while."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agentray.client import (
    AgentClient,
    AsyncAgentClient,
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from agentray.errors import DeploymentStopped, Overloaded, StoreUnavailable
from agentray.protocol.runs import RunStatus
from tests.support.eventually import eventually_async
from tests.support.gateway import INVOKE_KEY, KEY, BreakableStore, Gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncGenerator[AsyncAgentClient]:
    async with AsyncAgentClient(gateway.url, KEY) as client:
        yield client


async def test_a_prompt_and_its_run(client: AsyncAgentClient):
    run = await client.prompt("Ada", "greeter/ada")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": "Hello, Ada!"})
    assert await client.run(run.id) == run
    assert (await client.runs(limit=1, status=RunStatus.SUCCEEDED, agent="greeter")).runs == [run]
    assert [span.event for span in await client.trace(run.id)] == ["Prompt"]


async def test_a_run_that_goes_on_is_returned_when_the_wait_is_over(
    gateway: Gateway, client: AsyncAgentClient
):
    gateway.dispatcher.gate.clear()
    run = await client.prompt("Ada", wait_s=0.05)
    assert run.status is not RunStatus.SUCCEEDED
    waiting = asyncio.create_task(client.run(run.id, wait_s=10))
    gateway.dispatcher.gate.set()
    assert (await waiting).status is RunStatus.SUCCEEDED


async def test_a_long_wait_is_made_of_several_requests(tmp_path: Path):
    gateway = Gateway(BreakableStore(), tmp_path, max_wait_s=0.02)
    await gateway.prepare()
    async with gateway.serving(), AsyncAgentClient(gateway.url, KEY) as client:
        gateway.dispatcher.gate.clear()
        prompting = asyncio.create_task(client.prompt("Ada"))
        await eventually_async(lambda: _true(gateway.dispatcher.joined > 2))
        gateway.dispatcher.gate.set()
        assert (await prompting).status is RunStatus.SUCCEEDED
        assert len(gateway.dispatcher.started) == 1


async def test_the_same_key_finds_the_same_run(client: AsyncAgentClient):
    first = await client.prompt("Ada", idempotency_key="k")
    assert (await client.prompt("Ada", idempotency_key="k")).id == first.id
    with pytest.raises(Conflict) as caught:
        await client.prompt("Bob", idempotency_key="k")
    assert caught.value.run_id == first.id
    assert (await client.prompt("Ada")).id != first.id


async def test_a_prompt_is_streamed(client: AsyncAgentClient):
    events = [event async for event in client.stream("Ada")]
    assert [event.kind for event in events] == ["started", "text_delta", "succeeded"]


async def test_events_resume(client: AsyncAgentClient):
    run = await client.prompt("Ada")
    assert [e.offset async for e in client.events(run.id)] == [0, 1, 2]
    assert [e.offset async for e in client.events(run.id, after=1)] == [2]


async def test_a_stream_may_be_left_early(gateway: Gateway, client: AsyncAgentClient):
    gateway.dispatcher.gate.clear()
    stream = client.stream("Ada")
    assert (await anext(stream)).kind == "started"
    await stream.aclose()
    gateway.dispatcher.gate.set()
    (run_id,) = gateway.dispatcher.started
    assert (await client.run(run_id, wait_s=10)).status is RunStatus.SUCCEEDED


async def test_a_stream_goes_on_where_its_connection_broke(
    gateway: Gateway, store: BreakableStore, client: AsyncAgentClient
):
    gateway.dispatcher.gate.clear()
    stream = client.stream("Ada")
    first = await anext(stream)
    # The host and then the Store are gone: the gateway ends the stream before the run's end.
    store.broken = StoreUnavailable()
    gateway.dispatcher.away = DeploymentStopped("greeter")
    await _wake(gateway)
    rest = asyncio.create_task(_kinds(stream))
    await asyncio.wait((rest,), timeout=0.1)
    store.broken = gateway.dispatcher.away = None
    gateway.dispatcher.gate.set()
    assert [first.kind, *await rest] == ["started", "text_delta", "succeeded"]
    assert len(gateway.dispatcher.started) == 1


async def _wake(gateway: Gateway) -> None:
    async with gateway.dispatcher.changed:
        gateway.dispatcher.changed.notify_all()


async def _kinds(stream: AsyncGenerator[Any]) -> list[str]:
    return [event.kind async for event in stream]


async def _true(value: Any) -> bool:
    return bool(value)


async def test_refusals_are_errors_of_their_class(client: AsyncAgentClient):
    with pytest.raises(InvalidRequest) as caught:
        await client.prompt("")
    assert caught.value.errors[0]["field"] == "prompt"
    with pytest.raises(InvalidRequest):
        await client.runs(limit=0)
    with pytest.raises(NotFound):
        await client.prompt("x", "nobody")
    with pytest.raises(NotFound):
        await client.run("run_nope")
    with pytest.raises(NotFound):
        await client.trace("run_nope")
    with pytest.raises(NotFound):
        await anext(client.events("run_nope"))


async def test_keys_and_scopes(gateway: Gateway):
    async with AsyncAgentClient(gateway.url, "wrong") as client:
        with pytest.raises(Unauthorized):
            await client.runs()
    async with AsyncAgentClient(gateway.url, INVOKE_KEY) as client:
        with pytest.raises(Forbidden):
            await client.runs()


async def test_a_prompt_waits_until_the_deployment_is_back(
    gateway: Gateway, client: AsyncAgentClient
):
    gateway.dispatcher.stopped = DeploymentStopped("greeter", 0.1)
    prompting = asyncio.create_task(client.prompt("Ada"))
    await asyncio.wait((prompting,), timeout=0.05)
    gateway.dispatcher.stopped = None
    assert (await prompting).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "expected"),
    [(DeploymentStopped("greeter"), Unavailable), (Overloaded("greeter"), TooManyRequests)],
)
async def test_repeats_end_with_the_callers_patience(
    gateway: Gateway, error: Exception, expected: type[ClientError]
):
    gateway.dispatcher.stopped = error
    async with AsyncAgentClient(gateway.url, KEY, timeout_s=0.2) as client:
        with pytest.raises(expected) as caught:
            await client.prompt("Ada", wait_s=0)
        assert caught.value.retry_after_s in {1, 2}


async def test_no_gateway_is_a_connection_failed():
    async with AsyncAgentClient("http://127.0.0.1:9", "k", timeout_s=0.2) as client:
        with pytest.raises(ConnectionFailed):
            await client.prompt("Ada", wait_s=0)
        with pytest.raises(ConnectionFailed):
            await anext(client.stream("Ada"))
        with pytest.raises(ConnectionFailed):
            await client.ready()


async def test_readiness(gateway: Gateway, client: AsyncAgentClient):
    assert await client.ready() == []
    gateway.hosts.missing = ["no host"]
    assert await client.ready() == ["no host"]


async def test_a_closed_client_says_so(gateway: Gateway):
    client = AsyncAgentClient(gateway.url, KEY)
    await client.runs()
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.runs()


async def test_the_sync_client_does_the_same(gateway: Gateway):
    await asyncio.to_thread(_use_sync_client, gateway.url)


def _use_sync_client(url: str) -> None:
    with AgentClient(url, KEY) as client:
        assert client.ready() == []
        run = client.prompt("Ada", "greeter/ada", wait_s=10)
        assert run.result == {"text": "Hello, Ada!"}
        assert client.run(run.id) == run
        assert client.runs(limit=5).runs == [run]
        assert [event.offset for event in client.events(run.id)] == [0, 1, 2]
        assert [event.kind for event in client.stream("Bob")] == [
            "started",
            "text_delta",
            "succeeded",
        ]
        assert next(client.stream("Cyd")).kind == "started"
        assert len(client.trace(run.id)) == 1
        with pytest.raises(NotFound):
            client.run("run_nope")
    client.close()


def test_both_clients_have_the_same_methods():
    def signatures(cls: type) -> dict[str, list[str]]:
        return {
            name: [str(p) for p in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert signatures(AgentClient) == signatures(AsyncAgentClient)
