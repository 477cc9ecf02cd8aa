"""The language model tells a run's budget what it uses, and is stopped in the midst of its work."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from agentray import Agent, App, Budget, Prompt, on
from agentray.patterns.llm import LanguageModel
from agentray.protocol.runs import RunStatus
from agentray.testing import LocalRuntime

pydantic_ai = pytest.importorskip("pydantic_ai")


class Answer(BaseModel):
    text: str


requests: list[int] = []


def make_model(tool_rounds: int) -> LanguageModel[Answer]:
    """A model that calls a tool so many times before it answers; each request uses 60 tokens."""
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.usage import RequestUsage

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        del messages
        requests.append(len(requests))
        usage = RequestUsage(input_tokens=50, output_tokens=10)
        if len(requests) <= tool_rounds:
            return ModelResponse(parts=[ToolCallPart("look", {})], usage=usage)
        done = ToolCallPart(info.output_tools[0].name, {"text": "found"})
        return ModelResponse(parts=[done], usage=usage)

    agent: Any = pydantic_ai.Agent(FunctionModel(answer), output_type=Answer)

    async def look() -> str:
        return "nothing yet"

    agent.tool_plain(look)
    return LanguageModel[Answer]("double", agent, 10.0)


class Thinker(Agent):
    @on(Prompt)
    async def think(self, prompt: Prompt) -> str:
        model = make_model(int(prompt.text))
        await model.open()
        try:
            return (await model.ask("what?")).text
        finally:
            await model.close()


@pytest.fixture(autouse=True)
def _new_requests() -> None:
    requests.clear()


async def test_a_model_tells_what_it_used():
    async with LocalRuntime() as manager:
        await manager.deploy(App("thinking", [Thinker]))
        run = await manager.prompt("2", budget=Budget(tokens=1000), agent="thinker/a")
        assert (run.status, run.result) == (RunStatus.SUCCEEDED, "found")
        assert run.usage is not None
        assert (run.usage.tokens, run.usage.tool_calls) == (180, 2)


async def test_a_model_is_stopped_between_its_requests_when_the_budget_is_used_up():
    async with LocalRuntime() as manager:
        await manager.deploy(App("thinking", [Thinker]))
        run = await manager.prompt("50", budget=Budget(tokens=200), agent="thinker/a")
        assert run.status is RunStatus.BUDGET_EXCEEDED
        assert run.error is not None
        assert "200 tokens" in run.error.message
        assert 4 <= len(requests) <= 6, "not all of the fifty-one"
