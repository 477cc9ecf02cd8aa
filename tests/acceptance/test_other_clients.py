"""Clients of other systems, and requests as objects, against a real cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from openai import AsyncOpenAI

from agentray.client import AgentClient
from agentray.client.chats import AgentPrompt
from tests.support.cluster import RIVER, Cluster
from tests.support.third_party import run_third_party

ENTRY = "text_reception"


async def test_openais_package_lists_agents_and_asks_them_streaming_and_not(cluster: Cluster):
    ask: Any = [{"role": "user", "content": RIVER}]
    async with AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.key) as client:
        assert ENTRY in [model.id async for model in client.models.list()]
        answer = await client.chat.completions.create(model=ENTRY, messages=ask)
        assert "flood barrier" in str(answer.choices[0].message.content)
        chunks = await client.chat.completions.create(model=ENTRY, messages=ask, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert "flood barrier" in said
        made = await client.responses.create(model=ENTRY, input=RIVER, background=True)
        events = await client.responses.retrieve(made.id, stream=True)
        assert [event.type async for event in events][-1] == "response.completed"
        assert "flood barrier" in (await client.responses.retrieve(made.id)).output_text
        await client.responses.delete(made.id)


async def test_a_prompt_sends_itself_as_a_job(cluster: Cluster):
    def ask() -> AgentPrompt:
        with AgentClient(cluster.url, cluster.key) as client:
            prompt = AgentPrompt(RIVER, agent=ENTRY, enable_trace=True)
            return prompt.send_job_and_wait(client=client)

    prompt = await asyncio.to_thread(ask)
    assert "flood barrier" in str(prompt.response)
    assert prompt.trace
    assert prompt.trace[-1].kind == "succeeded"


async def test_synapseclient_chats_with_an_agent(cluster: Cluster):
    told = await run_third_party("synapse_chat.py", cluster.url, cluster.key, ENTRY, RIVER)
    assert "flood barrier" in told["response"]
    assert told["trace"]
