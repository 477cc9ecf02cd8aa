"""`/v1/models` and `/v1/chat/completions`, as OpenAI's own package uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from agentray.client import AsyncAgentClient
from agentray.protocol.runs import RunStatus
from tests.support.chat_agents import Waiter, chat_app
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, READ_KEY, api_key
from tests.support.local_gateway import LocalGateways, local_gateways

USER: dict[str, Any] = {"role": "user", "content": "Ada"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ADA: Any = [USER]
TOOLS: Any = [WEATHER]


def request_id(answer: Any) -> str:
    return answer._request_id


@pytest.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LocalGateways]:
    home, settings = tmp_path_factory.mktemp("home"), {"max_body_bytes": 20_000}
    async with local_gateways(chat_app(), home=home, **settings) as gateways:
        yield gateways


@pytest.fixture
async def ours(local: LocalGateways) -> AsyncGenerator[AsyncAgentClient]:
    async with local.client() as client:
        yield client


@pytest.fixture
async def client(local: LocalGateways) -> AsyncGenerator[AsyncOpenAI]:
    url = f"{local.replicas[0].url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("key", ["", "\0", "k" * 600])
async def test_an_agent_that_cannot_be_is_no_model(client: AsyncOpenAI, key: str):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(
            model=f"plain/{key}", messages=[{"role": "user", "content": "hi"}]
        )
    assert refused.value.code == "model_not_found"


async def test_agents_that_take_prompts_are_models(client: AsyncOpenAI):
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["counter", "model", "plain", "poet", "waiter"]
    assert {model.owned_by for model in models} == {"chats"}
    assert all(model.created > 1_700_000_000 for model in models)
    assert (await client.models.retrieve("plain")).id == "plain"
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("greter")
    assert refused.value.code == "model_not_found"


async def test_an_agent_answers_a_conversation(client: AsyncOpenAI):
    answer = await client.chat.completions.create(model="plain", messages=ADA)
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == "Hello, Ada!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is None  # nobody counted
    assert answer.model == "plain"


async def test_a_request_is_a_run_that_goes_by_its_id(
    client: AsyncOpenAI, ours: AsyncAgentClient, local: LocalGateways
):
    answer = await client.chat.completions.create(
        model="plain/ada", messages=ADA, metadata={"for": "tests"}, user="ada"
    )
    run = await ours.run(request_id(answer))
    assert (run.agent, run.result) == ("plain/ada", "Hello, Ada!")
    stored = await local.runtime.store.get_run(run.id)
    assert stored is not None
    assert stored.input["chat"]["metadata"] == {"for": "tests"}
    assert stored.input["chat"]["user"] == "ada"


def test_the_synchronous_package_works_too(tmp_path: Path):
    async def serve() -> list[str]:
        async with local_gateways(chat_app(), home=tmp_path) as local:
            return await asyncio.to_thread(ask, f"{local.replicas[0].url}/v1")

    def ask(url: str) -> list[str]:
        with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            answer = client.chat.completions.create(model="plain", messages=ADA)
            chunks = client.chat.completions.create(model="plain", messages=ADA, stream=True)
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            response = client.responses.create(model="plain", input="Ada")
            return [str(answer.choices[0].message.content), said, response.output_text]

    assert asyncio.run(serve()) == ["Hello, Ada!"] * 3


async def test_all_messages_reach_an_agent_that_takes_conversations(client: AsyncOpenAI):
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "how"},
    ]
    answer = await client.chat.completions.create(
        model="model", messages=messages, temperature=0.5, max_completion_tokens=9, user="ada",
        seed=1, service_tier="auto", store=True, presence_penalty=0.1,
    )  # fmt: skip
    said = ["system: Be brief.", "user: one", "assistant: two", "user: how", "0.5 9 ada"]
    assert str(answer.choices[0].message.content).split("\n") == said
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert answer.usage.total_tokens == 10
    assert answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_tool_is_asked_for_and_its_result_goes_on(client: AsyncOpenAI):
    asked = await client.chat.completions.create(model="model", messages=ADA, tools=TOOLS)
    choice = asked.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ulm"})

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "fine"}
    messages: Any = [USER, choice.message, result]  # the message as it came
    answer = await client.chat.completions.create(model="model", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "The weather is fine."
    none = await client.chat.completions.create(
        model="model", messages=ADA, tools=TOOLS, tool_choice="none"
    )
    assert none.choices[0].finish_reason == "stop"


async def test_an_answer_is_parsed_by_its_schema(client: AsyncOpenAI):
    class Place(BaseModel):
        city: str

    parsed = await client.chat.completions.parse(model="model", messages=ADA, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Ulm")


async def test_a_result_that_is_no_text_is_told_as_json(client: AsyncOpenAI):
    ask: Any = [{"role": "user", "content": "json"}]
    answer = await client.chat.completions.create(model="plain", messages=ask)
    assert json.loads(str(answer.choices[0].message.content)) == {"city": "Ulm"}


async def test_a_cut_answer_says_so(client: AsyncOpenAI):
    ask: Any = [{"role": "user", "content": "cut"}]
    answer = await client.chat.completions.create(model="model", messages=ask)
    assert answer.choices[0].finish_reason == "length"


async def test_a_question_of_the_agent_is_its_answer(client: AsyncOpenAI, ours: AsyncAgentClient):
    ask: Any = [{"role": "user", "content": "ask"}]
    answer = await client.chat.completions.create(model="plain", messages=ask)
    assert answer.choices[0].message.content == "Really?"
    assert (await ours.run(request_id(answer))).status == "waiting"
    chunks = await client.chat.completions.create(model="plain", messages=ask, stream=True)
    assert "".join([c.choices[0].delta.content or "" async for c in chunks]) == "Really?"


async def test_a_stream_ends_with_its_usage(client: AsyncOpenAI):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="model", messages=ADA, stream=True, stream_options={"include_usage": True}
        )
    ]
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == "user: Ada"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_text_is_streamed_as_it_is_said(client: AsyncOpenAI):
    stream = await client.chat.completions.create(model="poet", messages=ADA, stream=True)
    pieces = [piece async for c in stream if (piece := c.choices[0].delta.content)]
    assert len(pieces) > 1
    assert "".join(pieces) == "Roses are red,\nviolets are blue,\nAda is you."


async def test_tool_calls_are_streamed(client: AsyncOpenAI):
    async with client.chat.completions.stream(model="model", messages=ADA, tools=TOOLS) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.arguments == '{"city":"Ulm"}'


async def test_the_raw_stream_is_server_sent_events_with_done(local: LocalGateways):
    body = {"model": "plain", "messages": [USER], "stream": True}
    path = f"{local.replicas[0].url}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(path, json=body, headers=headers) as answer,
    ):
        assert answer.content_type == "text/event-stream"
        blocks = (await answer.text()).split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(block.startswith("data: ") for block in blocks[:-1])


async def test_a_run_that_fails_is_a_server_error_that_is_not_tried_again(
    local: LocalGateways, ours: AsyncAgentClient
):
    ask: Any = [{"role": "user", "content": "fail"}]
    url = f"{local.replicas[0].url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="plain", messages=ask)
        assert failed.value.code == "agent_error"
        assert "no (run_" in str(failed.value)
        with pytest.raises(openai.APIError, match=r"no \(run_"):
            async for _ in await client.chat.completions.create(
                model="plain", messages=ask, stream=True
            ):
                pass
    assert len((await ours.runs(agent="plain", status=RunStatus.FAILED)).runs) == 2  # one each


async def test_a_repetition_under_a_key_is_the_same_run(client: AsyncOpenAI):
    async def ask(text: str, **more: Any) -> Any:
        said: Any = [{"role": "user", "content": text}]
        create: Any = client.chat.completions.create
        return await create(
            model="counter/one", messages=said, extra_headers={"Idempotency-Key": "a"}, **more
        )

    first, again = await ask("x"), await ask("x")
    assert first.id == again.id
    assert again.choices[0].message.content == "1"
    streamed = [chunk async for chunk in await ask("x", stream=True)]
    assert {chunk.id for chunk in streamed} == {first.id}
    with pytest.raises(openai.ConflictError):
        await ask("y")


async def test_a_client_that_hangs_up_does_not_end_the_run(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path) as local, local.client() as ours:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="waiter", messages=ADA)
            )
            await eventually_async(asked_waiter, 20)
            asking.cancel()
            await asyncio.wait((asking,))
        Waiter.gate.set()
        (run,) = (await ours.runs()).runs
        assert (await ours.run(run.id, wait_s=20)).result == "at last, Ada"


async def asked_waiter() -> int:
    return Waiter.asked


async def test_who_waits_too_long_is_told_where_it_goes_on(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path, openai_wait_s=0.01) as local:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=2) as client:
            with pytest.raises(openai.APIStatusError, match=r"/v1/runs/run_") as refused:
                await client.chat.completions.create(model="waiter", messages=ADA)
        assert refused.value.status_code == 504
        async with local.client() as ours:
            assert len((await ours.runs()).runs) == 1
        Waiter.gate.set()


REFUSED: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"logprobs": True}, "logprobs", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"warmth": 1}, "warmth", "unknown_parameter"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "x", "content": "y"}]}, "messages[0]", "invalid_value"),
    (
        {"messages": [{"role": "tool", "tool_call_id": "a", "content": "b"}]},
        "messages[0].tool_call_id",
        "invalid_value",
    ),
    ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages", "invalid_value"),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}],
                }
            ]
        },
        "messages",
        "unsupported_parameter",
    ),
    ({"tools": [WEATHER]}, "tools", "unsupported_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
    ({"model": None}, "model", "invalid_value"),
]


@pytest.mark.parametrize(("more", "param", "code"), REFUSED)
async def test_what_cannot_be_served_is_refused_by_its_name(
    client: AsyncOpenAI, more: dict[str, Any], param: str | None, code: str | None
):
    body = {"model": "plain", "messages": [USER], **more}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/chat/completions", cast_to=object, body=body)
    error: Any = refused.value
    assert error.type == "invalid_request_error"
    assert (error.param, error.code) == (param, code)


async def test_wrong_requests_have_their_shape_of_errors(local: LocalGateways):
    url = local.replicas[0].url
    await local.runtime.store.put_key(api_key(READ_KEY, "read"))
    unknown = json.dumps({"model": "x", "messages": [USER]}).encode()
    asked = [
        (400, "POST", KEY, b"{"),
        (401, "POST", "nobody", b"{}"),
        (403, "POST", READ_KEY, b"{}"),
        (404, "POST", KEY, unknown),
        (405, "PUT", KEY, b"{}"),
        (413, "POST", KEY, b"x" * 30_000),
    ]
    async with aiohttp.ClientSession() as http:
        for status, method, key, body in asked:
            error = await refused(http, status, method, f"{url}/v1/chat/completions", key, body)
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["message"]
        nowhere = await refused(http, 404, "GET", f"{url}/v1/chat/nothing", KEY, b"")
        assert nowhere["type"] == "invalid_request_error"
        bearer = {"Authorization": f"Bearer {KEY}"}
        async with http.get(f"{url}/v1/nothing", headers=bearer) as elsewhere:
            assert elsewhere.content_type == "application/problem+json"


async def refused(
    http: aiohttp.ClientSession, status: int, method: str, url: str, key: str, body: bytes
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with http.request(method, url, data=body, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json")
        return (await answer.json())["error"]


async def test_too_many_are_told_when_to_come_again(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path, gateway_runs=1) as local:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            stream = await client.chat.completions.create(model="waiter", messages=ADA, stream=True)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(model="plain", messages=ADA)
            assert int(refused.value.response.headers["retry-after"]) >= 1
            Waiter.gate.set()
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "at last, Ada"
