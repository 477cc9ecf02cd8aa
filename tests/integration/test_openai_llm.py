"""OpenAI's own package talks to an agent with a language model, through the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from agentray import App
from agentray.patterns.chat import ChatAgent
from agentray.patterns.llm import LanguageModel
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, local_gateways

pydantic_ai = pytest.importorskip("pydantic_ai")

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Place(BaseModel):
    city: str


def heard(messages: list[Any]) -> list[tuple[str, str]]:
    parts = [part for message in messages for part in message.parts]
    return [(part.part_kind, str(getattr(part, "content", part))) for part in parts]


def answer(messages: list[Any], info: Any) -> Any:
    """Stands for a provider."""
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    last = messages[-1].parts[-1]
    if info.output_tools:
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {"city": "Ulm"})])
    if info.function_tools and last.part_kind == "user-prompt":
        call = ToolCallPart("weather", {"city": "Ulm"}, tool_call_id="call_1")
        return ModelResponse(parts=[call])
    if last.part_kind == "tool-return":
        return ModelResponse(parts=[TextPart(f"It is {last.content}.")])
    told = {"heard": heard(messages), "settings": dict(info.model_settings or {})}
    return ModelResponse(parts=[TextPart(json.dumps(told))])


async def stream(messages: list[Any], info: Any) -> AsyncIterator[Any]:
    from pydantic_ai.models.function import DeltaToolCall

    for part in answer(messages, info).parts:
        if part.part_kind == "text":
            for start in range(0, len(part.content), 8):
                yield part.content[start : start + 8]
        else:
            args = part.args_as_json_str()
            call_id = part.tool_call_id
            yield {0: DeltaToolCall(part.tool_name, args, tool_call_id=call_id)}


class Assistant(ChatAgent):
    instructions = "Be kind."

    async def load(self) -> LanguageModel[str]:
        from pydantic_ai.models.function import FunctionModel

        model = FunctionModel(answer, stream_function=stream)
        agent = pydantic_ai.Agent(model, output_type=str, instructions=self.instructions)
        made: LanguageModel[str] = LanguageModel("test", agent, 30)
        await made.open()
        return made


@pytest.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LocalGateways]:
    home: Path = tmp_path_factory.mktemp("home")
    async with local_gateways(App("chats", [Assistant]), home=home) as gateways:
        yield gateways


@pytest.fixture
async def client(local: LocalGateways) -> AsyncGenerator[AsyncOpenAI]:
    url = f"{local.replicas[0].url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_the_model_sees_all_messages_and_settings(client: AsyncOpenAI):
    said: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    made = await client.chat.completions.create(
        model="assistant", messages=said, temperature=0.5, max_tokens=9, stop="x"
    )
    told = json.loads(str(made.choices[0].message.content))
    assert told["heard"][:3] == [
        ["system-prompt", "Be brief."],
        ["user-prompt", "one"],
        ["text", "two"],
    ]
    assert told["heard"][3][0] == "user-prompt"
    assert "three" in told["heard"][3][1]
    assert told["settings"] == {"temperature": 0.5, "max_tokens": 9, "stop_sequences": ["x"]}
    assert made.usage is not None
    assert made.usage.prompt_tokens > 0
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens


async def test_the_model_asks_for_the_callers_tool_and_goes_on_with_its_result(
    client: AsyncOpenAI,
):
    ask: Any = [{"role": "user", "content": "Ulm?"}]
    asked = await client.chat.completions.create(model="assistant", messages=ask, tools=[TOOL])
    choice = asked.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert (call.id, call.function.name) == ("call_1", "weather")
    assert json.loads(call.function.arguments) == {"city": "Ulm"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "fine"}
    goes_on: Any = [*ask, choice.message, result]
    end = await client.chat.completions.create(model="assistant", messages=goes_on, tools=[TOOL])
    assert end.choices[0].message.content == "It is fine."


async def test_the_answer_fits_the_schema(client: AsyncOpenAI):
    parsed = await client.responses.parse(model="assistant", input="Ulm?", text_format=Place)
    assert parsed.output_parsed == Place(city="Ulm")


async def test_the_text_is_streamed_as_the_model_writes_it(client: AsyncOpenAI):
    ask: Any = [{"role": "user", "content": "hello"}]
    chunks = await client.chat.completions.create(model="assistant", messages=ask, stream=True)
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert json.loads(said)["heard"] == [["user-prompt", "hello"]]


async def test_responses_go_on_with_what_was_said(client: AsyncOpenAI):
    first = await client.responses.create(model="assistant", input="one", instructions="Hm.")
    second = await client.responses.create(
        model="assistant", input="two", previous_response_id=first.id
    )
    told = json.loads(second.output_text)["heard"]
    assert [kind for kind, _ in told] == ["user-prompt", "text", "user-prompt"]
    assert (told[0][1], told[2][1]) == ("one", "two")


async def test_an_image_reaches_the_model(client: AsyncOpenAI):
    pixel = "data:image/png;base64,iVBORw0KGgo="
    ask: Any = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": pixel}},
            ],
        }
    ]
    made = await client.chat.completions.create(model="assistant", messages=ask)
    assert "image/png" in str(made.choices[0].message.content)
