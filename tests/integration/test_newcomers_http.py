"""Agents that were deployed a moment ago, at a gateway that has not heard of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from agentray import Agent, App, Prompt, Request, on
from agentray.client import AsyncAgentClient, NotFound
from agentray.protocol.runs import RunStatus
from tests.support.chat_agents import chat_app
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, local_gateways


class Weigh(Request):
    grams: int


class Scales(Agent):
    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        return prompt.text

    @on(Weigh)
    async def weigh(self, asked: Weigh) -> int:
        return asked.grams


@pytest.fixture
async def deaf(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    """A gateway that hears of nothing that it does not ask for, and has not asked yet."""
    async with local_gateways(chat_app(), home=tmp_path, hears=False) as gateways:
        await gateways.manager.deploy(App("scales", [Scales]))
        yield gateways


@pytest.fixture
async def client(deaf: LocalGateways) -> AsyncGenerator[AsyncAgentClient]:
    async with deaf.client() as client:
        yield client


async def test_they_are_prompted(client: AsyncAgentClient):
    run = await client.prompt("x", agent="scales")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, "x")


async def test_a_prompt_for_nobody_is_still_refused(client: AsyncAgentClient):
    with pytest.raises(NotFound, match="nobody"):
        await client.prompt("x", agent="nobody")


async def test_they_are_prompted_in_sessions(client: AsyncAgentClient):
    session = await client.sessions.create(agent="scales")
    assert (await client.prompt("x", session=session.id)).result == "x"


async def test_their_requests_are_taken(client: AsyncAgentClient):
    token = await client.requests.start("weigh", {"grams": 3})
    assert (await client.requests.get("weigh", token, wait_s=20)).response == 3


async def test_they_are_asked_by_name_for_what_others_answer(client: AsyncAgentClient):
    token = await client.requests.start("prompt", {"prompt": "x"}, agent="scales")
    assert (await client.requests.get("prompt", token, wait_s=20)).response == "x"


async def test_they_are_put_on_schedules(client: AsyncAgentClient):
    schedule = await client.schedules.create(prompt="x", agent="scales", every_s=3600)
    assert schedule.spec.agent == "scales"


@pytest.mark.parametrize("first", ["model", "chat", "response"])
async def test_they_are_models(deaf: LocalGateways, first: str):
    url = f"{deaf.replicas[0].url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        if first == "model":
            assert (await client.models.retrieve("scales")).id == "scales"
        elif first == "chat":
            said = await client.chat.completions.create(
                model="scales", messages=[{"role": "user", "content": "x"}]
            )
            assert said.choices[0].message.content == "x"
        else:
            assert (await client.responses.create(model="scales", input="x")).output_text == "x"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")
