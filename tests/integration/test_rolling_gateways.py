"""Replicas of the gateway that leave and come, one after the other, under load: nobody notices.

The replicas are real, on sockets, before agents on local hosts; a balancer stands where HAProxy
does. A replica that leaves breaks all of its connections at once, as when its process is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from agentray import Agent, AgentOptions, App, Prompt, on
from agentray.client import AsyncAgentClient
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, Replica, local_gateways

WORDS = 40
handled: list[str] = []


class Greeter(Agent):
    options = AgentOptions(concurrency=None)

    @on(Prompt)
    async def greet(self, prompt: Prompt) -> str:
        handled.append(prompt.text)
        if prompt.text.startswith("slowly"):
            for number in range(WORDS):
                self.context.stream_text(f"{number} ")
                await asyncio.sleep(0.05)
        return f"Hello, {prompt.text}!"


app = App("greeting", [Greeter])


class Balancer:
    """Takes connections and hands each to a replica that listens, in turn."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas
        self._next = 0
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._take(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in self._replicas:
                self._next += 1
                url = self._replicas[self._next % len(self._replicas)].url
                try:
                    other = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                except OSError:
                    continue
                await asyncio.gather(_copy(reader, other[1]), _copy(other[0], writer))
                return
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()  # a connection that breaks on one side breaks on the other


@asynccontextmanager
async def balanced(tmp_path: Path) -> AsyncGenerator[tuple[LocalGateways, Balancer]]:
    handled.clear()
    async with local_gateways(app, home=tmp_path, hosts=2, replicas=2) as gateways:
        balancer = Balancer(list(gateways.replicas))
        async with balancer.serving():
            yield gateways, balancer


async def restart(replica: Replica) -> None:
    """Let a replica leave, and come back at its place."""
    port = int(replica.url.rpartition(":")[2])
    await replica.stop()
    replica.renew()
    await replica.start(port)


async def test_no_prompt_fails_and_none_is_done_twice(tmp_path: Path):
    async with balanced(tmp_path) as (gateways, balancer):
        over = asyncio.Event()
        done: list[str] = []

        async def prompt_on(client: AsyncAgentClient, name: str) -> None:
            number = 0
            while not over.is_set():
                text = f"{name} {number}"
                run = await client.prompt(text, "greeter/a")
                assert run.result == f"Hello, {text}!"
                done.append(text)
                number += 1

        async with AsyncAgentClient(balancer.url, KEY) as client, asyncio.TaskGroup() as group:
            for name in "abcdefgh":
                group.create_task(prompt_on(client, name))
            for replica in gateways.replicas:
                before = len(done)
                await restart(replica)

                async def more(least: int = before + 100) -> bool:
                    return len(done) >= least

                await eventually_async(more, timeout_s=60)
            over.set()
        assert sorted(handled) == sorted(done), "each was handled once, and each was answered"
        runs = await gateways.runtime.store.list_runs(limit=200)
        assert {run.status.value for run in runs} == {"succeeded"}


async def test_streams_that_are_cut_go_on_without_loss(tmp_path: Path):
    async with balanced(tmp_path) as (gateways, balancer):

        async def follow(client: AsyncAgentClient, name: str) -> None:
            said, offsets = "", list[int]()
            async with aclosing(client.stream(f"slowly {name}", "greeter/a")) as events:
                async for event in events:
                    offsets.append(event.offset)
                    said += event.data.get("text", "") if event.kind == "text_delta" else ""
            assert said == "".join(f"{number} " for number in range(WORDS))
            assert offsets == list(range(len(offsets)))

        async with AsyncAgentClient(balancer.url, KEY) as client, asyncio.TaskGroup() as group:
            for name in "abcdef":
                group.create_task(follow(client, name))
            for replica in gateways.replicas:
                await asyncio.sleep(0.4)
                await restart(replica)
        assert len(handled) == 6
