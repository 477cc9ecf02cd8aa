"""Replicas of the gateway on a real cluster: restarted, killed, and as many as there is to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest

from agentray import Agent, AgentOptions, App, ManagerClient, Prompt, on
from agentray.client import AsyncAgentClient
from agentray.ids import new_id
from tests.support.cluster import Cluster
from tests.support.eventually import eventually_async
from tests.support.replicas import deploy_gateway, replicas, until_replicas

pytestmark = pytest.mark.timeout(600)


class Reciter(Agent):
    """Says as many words as it is asked for, twenty in a second."""

    options = AgentOptions(name="replicas_reciter", concurrency=None)

    @on(Prompt)
    async def recite(self, prompt: Prompt) -> str:
        for number in range(int(prompt.text)):
            self.context.stream_text(f"{number} ")
            await asyncio.sleep(0.05)
        return prompt.text


app = App("replicas_of_gateways", [Reciter], entry=None)


class Load:
    """Prompts and streams, one after the other in each of several places, until it is over."""

    def __init__(self, cluster: Cluster, client: AsyncAgentClient) -> None:
        self.cluster = cluster
        self.client = client
        self.over = asyncio.Event()
        self.prompts = 0
        self.streams = 0
        self.answers: Counter[int] = Counter()  # to plain requests, by status
        self.bodies: set[str] = set()  # of those that were no 200

    async def prompt(self, words: int = 1) -> None:
        """Prompt with our client, which repeats what a replica that is gone has not answered."""
        while not self.over.is_set():
            run = await self.client.prompt(str(words), "replicas_reciter/a")
            assert run.result == str(words)
            self.prompts += 1

    async def prompt_slowly(self) -> None:
        await self.prompt(20)

    async def stream(self, words: int = 40) -> None:
        while not self.over.is_set():
            said, offsets = "", list[int]()
            stream = self.client.stream(str(words), "replicas_reciter/a")
            async with aclosing(stream) as events:
                async for event in events:
                    offsets.append(event.offset)
                    said += event.data["text"] if event.kind == "text_delta" else ""
            assert said == "".join(f"{number} " for number in range(words))
            assert offsets == list(range(len(offsets)))
            self.streams += 1

    async def plainly(self) -> None:
        """Prompt as any HTTP client does that sends a key and looks at nothing but the status."""
        headers = {"Authorization": f"Bearer {self.cluster.key}"}
        body = {"prompt": "4", "agent": "replicas_reciter/a"}
        async with aiohttp.ClientSession(headers=headers) as session:
            while not self.over.is_set():
                key = {"Idempotency-Key": new_id("key")}
                url = f"{self.cluster.url}/v1/prompts"
                try:
                    async with session.post(url, json=body, headers=key) as answer:
                        self.answers[answer.status] += 1
                        if answer.status != 200:
                            self.bodies.add(await answer.text())
                except aiohttp.ClientError:
                    self.answers[0] += 1

    async def more(self, prompts: int) -> None:
        """Wait until so many more have been answered, and another stream is whole."""
        least, streams = self.prompts + prompts, self.streams + 1

        async def answered() -> bool:
            return self.prompts >= least and self.streams >= streams

        await eventually_async(answered, timeout_s=120)


@asynccontextmanager
async def loaded(cluster: Cluster, *work: Callable[[Load], object]) -> AsyncGenerator[Load]:
    """Put load on the gateway while something is done; nothing of it may fail."""
    async with cluster.client() as client, asyncio.TaskGroup() as group:
        load = Load(cluster, client)
        for each in work:
            group.create_task(each(load))  # pyright: ignore[reportArgumentType]
        yield load
        load.over.set()


async def test_replicas_come_and_go_are_restarted_and_killed_and_no_prompt_fails(
    cluster: Cluster, manager: ManagerClient
):
    """One test: each other setting costs the start of a replica."""
    await manager.deploy(app)
    few = {
        "AGENTRAY_MAX_REPLICAS": "2",
        "AGENTRAY_GATEWAY_TARGET_REQUESTS": "4",
        "AGENTRAY_GATEWAY_DOWNSCALE_S": "2",
    }
    try:
        async with loaded(cluster, *[Load.stream] * 2, Load.prompt) as load:
            before = set(replicas(cluster))
            await deploy_gateway(cluster, **few)  # the only one leaves
            await until_replicas(cluster, 1, without=before)
            async with loaded(cluster, *[Load.prompt_slowly] * 8, *[Load.plainly] * 2) as rush:
                both = set(await until_replicas(cluster, 2))  # as there is much to do
                # Another setting is another version: Serve replaces the replicas, one at a time.
                await deploy_gateway(cluster, **few, AGENTRAY_MAX_WAIT_S="59")
                others = await until_replicas(cluster, 2, without=both)
                await load.more(10)
                pid, victim = others.popitem()
                victim.kill()
                await until_replicas(cluster, 2, without={pid})
                await load.more(10)
            assert rush.answers[200] > 20
            assert rush.answers.keys() <= {200, 503}, (rush.answers, rush.bodies)
            assert all("urn:agentray:problem:unavailable" in body for body in rush.bodies)
            await until_replicas(cluster, 1)  # there is little to do again: one of them leaves
            await load.more(10)
    finally:
        await deploy_gateway(cluster)
