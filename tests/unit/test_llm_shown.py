"""What those who follow a run see of a language model: its text as it comes, and its tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentray import Agent, App, Prompt, on
from agentray.patterns.llm import LanguageModel
from agentray.protocol.runs import RunEvent
from agentray.testing import LocalRuntime

pydantic_ai = pytest.importorskip("pydantic_ai")


async def look(place: str) -> list[str]:
    """Look somewhere."""
    if place == "nowhere":
        raise pydantic_ai.ModelRetry("there is nothing to look at")
    return [place, "found"]


def make_model() -> LanguageModel[str]:
    """A model that looks in the places that it is told, and then says what it did, word by word."""
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

    async def answer(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | DeltaToolCalls]:
        del info
        asking: Any = messages[0].parts[-1]
        places = str(asking.content).split()
        asked = (len(messages) - 1) // 2
        if asked < len(places):
            place = places[asked]
            arguments = f'{{"place": "{place}"}}'
            yield {0: DeltaToolCall("look", arguments, tool_call_id=f"call_{asked}")}
        else:
            for word in ("I ", "have ", "looked."):
                yield word

    agent: Any = pydantic_ai.Agent(FunctionModel(stream_function=answer), tools=[look], retries=3)
    return LanguageModel[str]("double", agent, 10.0)


class Seeker(Agent):
    @on(Prompt)
    async def seek(self, prompt: Prompt) -> str:
        model = make_model()
        await model.open()
        try:
            return await model.ask(prompt.text, stream=True)
        finally:
            await model.close()


async def events_of(text: str) -> list[RunEvent]:
    runtime = LocalRuntime(hosts=1)
    async with runtime as manager:
        await manager.deploy(App("seeking", [Seeker]))
        run = await manager.prompt(text, agent="seeker/a")
        assert run.result == "I have looked.", run
        events = await runtime.store.run_events(run.id)
        return [event for event in events if event.kind not in ("queued", "started", "succeeded")]


async def test_its_tools_and_its_text_are_shown_in_their_order():
    called, answered, *said = await events_of("here")
    assert (called.kind, called.data) == (
        "tool_call",
        {"id": "call_0", "name": "look", "arguments": {"place": "here"}, "agent": "seeker/a"},
    )
    assert (answered.kind, answered.data) == (
        "tool_result",
        {"id": "call_0", "name": "look", "result": ["here", "found"], "agent": "seeker/a"},
    )
    assert "".join(event.data["text"] for event in said) == "I have looked."


async def test_what_a_tool_refuses_is_shown_as_an_error():
    events = await events_of("nowhere here")
    refused = events[1]
    assert (refused.kind, refused.data["id"]) == ("tool_result", "call_0")
    assert "there is nothing to look at" in refused.data["error"]
    assert [event.kind for event in events[2:4]] == ["tool_call", "tool_result"]
