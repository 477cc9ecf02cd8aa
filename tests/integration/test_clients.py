"""Both clients against a real gateway, also one that fails for a while."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

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
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from agentray.client.blocking import Blocking
from agentray.client.keys import AsyncKeys
from agentray.client.operations import AsyncOperations
from agentray.client.requests import AsyncRequests
from agentray.client.schedules import AsyncSchedules
from agentray.client.sessions import AsyncSessions
from agentray.client.sync_client import (
    Keys,
    Operations,
    Requests,
    Schedules,
    Sessions,
    Webhooks,
)
from agentray.client.webhooks import AsyncWebhooks
from agentray.errors import DeploymentStopped, Overloaded, StoreUnavailable
from agentray.protocol.runs import RunStatus
from tests.support.eventually import eventually_async
from tests.support.gateway import INVOKE_KEY, KEY, BreakableStore, Gateway
from tests.support.patience import fails_in_time


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

    async def prompt(timeout: float) -> None:
        async with AsyncAgentClient(gateway.url, KEY, timeout=timeout) as client:
            await client.prompt("Ada", wait_s=0)

    assert (await fails_in_time(expected, prompt)).retry_after_s in {1, 2}


async def test_no_gateway_is_a_connection_failed():
    ways: list[Callable[[AsyncAgentClient], Awaitable[object]]] = [
        lambda client: client.prompt("Ada", wait_s=0),
        lambda client: anext(client.stream("Ada")),
        lambda client: client.ready(),
    ]
    for way in ways:

        async def attempt(
            timeout: float, way: Callable[[AsyncAgentClient], Awaitable[object]] = way
        ) -> None:
            async with AsyncAgentClient("http://127.0.0.1:9", "k", timeout=timeout) as client:
                await way(client)

        await fails_in_time(ConnectionFailed, attempt)


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


# Both have the same


def members(cls: type) -> dict[str, object]:
    """Return the public attributes of a class, and its constructor."""
    found = inspect.getmembers_static(cls)
    return {name: m for name, m in found if not name.startswith("_") or name == "__init__"}


def parameters(method: Any) -> list[str]:
    return [str(p) for p in inspect.signature(method).parameters.values()]


TWINS: list[tuple[type, type]] = [
    (AgentClient, AsyncAgentClient),
    (Keys, AsyncKeys),
    (Operations, AsyncOperations),
    (Requests, AsyncRequests),
    (Schedules, AsyncSchedules),
    (Sessions, AsyncSessions),
    (Webhooks, AsyncWebhooks),
]


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS)
def test_both_clients_have_the_same_methods(blocking: type, asynchronous: type):
    one, other = members(blocking), members(asynchronous)
    one.pop("do", None)  # only who blocks needs a way to run what is awaited
    assert one.keys() == other.keys()
    for name, method in other.items():
        if isinstance(method, property):
            assert isinstance(one[name], property), name
        elif name != "__init__" or blocking is AgentClient:
            assert parameters(one[name]) == parameters(method), name
            # What an editor shows is the same, too.
            if name not in {"close", "__init__"}:
                assert inspect.getdoc(one[name]) == inspect.getdoc(method), name
                assert not inspect.iscoroutinefunction(one[name]), name


class Recorder:
    """Returns the keywords that any of its methods is called with."""

    def __getattr__(self, name: str) -> Any:
        async def call(**given: Any) -> dict[str, Any]:
            return given

        return call


class Loop:
    """Does at once what it is given."""

    def call(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(work())


@pytest.mark.parametrize("kind", [blocking for blocking, _ in TWINS])
def test_every_argument_of_a_blocking_method_may_be_given_by_its_name(kind: type):
    client = cast("Any", object.__new__(kind))
    cast("Any", Blocking).__init__(client, Recorder(), Loop())
    awaited = [
        name
        for name, method in members(kind).items()
        if inspect.iscoroutinefunction(getattr(method, "__wrapped__", None))
    ]
    assert len(awaited) > 3
    for name in awaited:
        _, *named = inspect.signature(getattr(kind, name)).parameters.values()
        given = {each.name: each.name for each in named if each.kind is not each.VAR_KEYWORD}
        assert getattr(client, name)(**given) == given, name


def test_a_client_needs_neither_ray_nor_a_store():
    program = (
        "import sys, agentray.client, agentray.client.sync_client\n"
        "print([m for m in ('ray', 'asyncpg', 'fastapi')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


async def test_a_program_that_forgets_to_close_its_client_ends(gateway: Gateway):
    program = (
        "from agentray.client import AgentClient\n"
        f"client = AgentClient({gateway.url!r}, {KEY!r})\n"
        "events = client.stream('Ada')\n"
        "print(next(events).kind)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out, err) == (0, b"started\n", b"")


async def test_a_sync_client_works_within_an_event_loop(gateway: Gateway, tmp_path: Path):
    other = Gateway(BreakableStore(), tmp_path)
    del gateway
    await other.prepare()
    # As in a notebook: its cells run within a loop, and the gateway is elsewhere.
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with other.serving():
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        await asyncio.to_thread(started.wait)
        with AgentClient(other.url, KEY) as client:
            run = client.prompt("Ada", wait_s=10)  # blocks this loop, and gets there
            assert [event.kind for event in client.events(run.id)][-1] == "succeeded"
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)


async def test_a_sync_client_says_when_it_is_closed(gateway: Gateway):
    def use() -> None:
        client = AgentClient(gateway.url, KEY)
        stream = client.stream("Ada")
        next(stream)
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.runs()
        with pytest.raises(RuntimeError, match="closed"):
            next(stream)
        AgentClient(gateway.url, KEY).close()  # one that was never used

    await asyncio.to_thread(use)


# Keys


async def test_keys_are_made_listed_and_revoked(gateway: Gateway, client: AsyncAgentClient):
    made = await client.keys.create(["invoke", "read"], name="shop", tenant="acme")
    async with AsyncAgentClient(gateway.url, made.secret) as shop:
        run = await shop.prompt("Ada")
        assert (await shop.runs()).runs == [run]
        with pytest.raises(Forbidden):
            await shop.keys.list()
        await client.keys.revoke(made.id)
        with pytest.raises(Unauthorized):
            await shop.runs()
    found = await client.keys.get(made.id)
    assert found.revoked_at is not None
    assert (found.name, found.tenant) == ("shop", "acme")
    first = await client.keys.list(limit=2)
    rest = await client.keys.list(before=first.next)
    assert found in first.keys + rest.keys
    assert len(first.keys) == 2
    with pytest.raises(NotFound):
        await client.keys.revoke("key_none")


async def test_a_client_may_speak_for_a_tenant_and_a_user(gateway: Gateway):
    async with AsyncAgentClient(gateway.url, KEY, tenant="acme", user_token="ada") as client:
        run = await client.prompt("Ada")
        assert (await client.runs()).runs == [run]
    async with AsyncAgentClient(f"{gateway.url}/v1/", KEY, tenant="other") as client:
        with pytest.raises(NotFound):
            await client.run(run.id)


# Repeats


async def test_what_may_have_happened_is_not_sent_again():
    asked: list[str] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().split()[1])
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with AsyncAgentClient(url, KEY) as client:
            with pytest.raises(ConnectionFailed):
                await client.keys.create(["read"])
            with pytest.raises(ConnectionFailed):
                await client.schedules.trigger("nightly")
        assert asked == ["/v1/keys", "/v1/schedules/nightly/trigger"]

        async def prompt(timeout: float) -> None:
            del asked[:]
            async with AsyncAgentClient(url, KEY, timeout=timeout) as client:
                try:
                    await client.prompt("Ada", wait_s=0)
                except ConnectionFailed:
                    if asked.count("/v1/prompts") > 1:
                        raise
                    raise TimedOut("It had no time for more than one.") from None

        await fails_in_time(ConnectionFailed, prompt)


async def test_silence_is_a_timeout():
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncAgentClient(url, KEY, timeout={"read": 0.1, "total": 0.3}) as client:
        with pytest.raises(TimedOut) as caught:
            await client.runs()
        assert caught.value.status_code == 408


async def test_ids_stay_within_their_part_of_the_path():
    asked: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().split()[1])
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/agents"
    async with server, AsyncAgentClient(url, KEY) as client:
        for run_id in ("..", "a/b", "a?b#c", "%2e", "ü"):
            with pytest.raises(NotFound):
                await client.run(run_id)
    assert asked == [
        f"/agents/v1/runs/{quoted}"
        for quoted in ("%2E%2E", "a%2Fb", "a%3Fb%23c", "%252e", "%C3%BC")
    ]
