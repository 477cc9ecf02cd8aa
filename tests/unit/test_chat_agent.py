"""Conversations with a language model: remembered in a session, copied, rolled back, with tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import App, Attachment, tool
from agentray.patterns.chat import ChatAgent, last_turns
from agentray.patterns.llm import LanguageModel
from agentray.protocol.runs import RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime, run

pydantic_ai = pytest.importorskip("pydantic_ai")

booked: list[str] = []
seen: list[list[Any]] = []


class City(BaseModel):
    name: str
    people: int


def texts(messages: Sequence[Any]) -> list[Any]:
    """What users have said so far, and what was answered."""
    return [
        part.content
        for message in messages
        for part in message.parts
        if part.part_kind in {"user-prompt", "text"}
    ]


async def answer(messages: list[Any], info: Any) -> Any:
    """Stands for a provider: says how many things users have said, or does what it is told."""
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    seen.append(texts(messages))
    last = messages[-1].parts[-1]
    if info.output_tools:
        fields = {"name": "Rome", "people": 3}
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, fields)])
    if last.part_kind == "user-prompt" and last.content in ["book", "look"]:
        return ModelResponse(parts=[ToolCallPart(last.content, {"what": "tea"})])
    if last.part_kind == "tool-return":
        return ModelResponse(parts=[TextPart(f"done: {last.content}")])
    said = [
        part for message in messages for part in message.parts if part.part_kind == "user-prompt"
    ]
    return ModelResponse(parts=[TextPart(f"You have said {len(said)} things.")])


class Assistant(ChatAgent):
    max_messages = 6
    streams = False

    @tool(access="write")
    async def book(self, what: str) -> str:
        """Book something."""
        booked.append(what)
        return f"{what} booked"

    @tool(access="read")
    def look(self, what: str) -> str:
        """Look something up."""
        return f"{what} seen"

    def tools(self) -> Sequence[Callable[..., Any]]:
        return [self.book, self.look]

    async def load(self) -> LanguageModel[str]:
        from pydantic_ai.models.function import FunctionModel

        agent: Any = pydantic_ai.Agent(FunctionModel(answer), output_type=str, tools=self.tools())
        model = LanguageModel[str]("double", agent, 10.0)
        await model.open()
        return model


app = App("assistants", [Assistant])


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    booked.clear()
    seen.clear()


def in_runtime(test: Any) -> None:
    async def whole() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(app)
            await test(manager)

    run(whole())


def test_prompts_in_a_session_are_a_conversation() -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant)
        for n in range(1, 3):
            found = await manager.prompt(f"thing {n}", session=session)
            assert found.result == f"You have said {n} things."
        assert seen[-1] == ["thing 1", "You have said 1 things.", "thing 2"]
        copy = await manager.sessions.copy(session.id)
        assert (await manager.prompt("more", session=copy)).result == "You have said 3 things."
        alone = await manager.sessions.create(agent=Assistant)
        assert (await manager.prompt("hello", session=alone)).result == "You have said 1 things."

    in_runtime(test)


def test_a_long_conversation_is_cut_at_its_beginning() -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant)
        for n in range(8):
            await manager.prompt(f"thing {n}", session=session)
        assert seen[-1][0] == "thing 4"
        assert seen[-1][-1] == "thing 7"
        state = (await manager.save_state(session.agent)).state
        assert len(state["messages"]) == 6

    in_runtime(test)


@pytest.mark.parametrize(("level", "allowed"), [("read", False), ("write", True)])
def test_a_tool_that_the_session_does_not_allow_is_not_run(level: str, allowed: bool) -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant, access_level=level)
        looked = await manager.prompt("look", session=session)
        assert looked.result == "done: tea seen", looked.error
        found = await manager.prompt("book", session=session)
        if allowed:
            assert (found.result, booked) == ("done: tea booked", ["tea"])
            return
        assert (found.status, booked) == (RunStatus.FAILED, [])
        assert found.error is not None
        assert found.error.type == "AccessDenied"
        assert "book needs the access level 'write'" in found.error.message
        # What failed is no part of the conversation.
        assert (await manager.prompt("and", session=session)).result == "You have said 2 things."

    in_runtime(test)


def test_the_answer_has_the_form_that_the_prompt_wants() -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant)
        found = await manager.prompt("Which city?", session=session, output_schema=City)
        assert found.result_as(City) == City(name="Rome", people=3)
        assert (await manager.prompt("and", session=session)).status is RunStatus.SUCCEEDED
        wrong = await manager.prompt("x", session=session, output_schema={"type": "array"})
        assert wrong.status is RunStatus.FAILED
        assert wrong.error is not None
        assert wrong.error.type == "ConfigurationError"

    in_runtime(test)


def test_files_are_shown_once_and_not_kept() -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant)
        picture = Attachment(name="a.png", media_type="image/png", data=b"\x89PNG" * 10_000)
        note = Attachment(name="n.txt", media_type="text/plain", data=b"words")
        found = await manager.prompt("see", session=session, attachments=[picture, note])
        assert found.status is RunStatus.SUCCEEDED, found.error
        text, image, words = seen[-1][0]
        assert (text, image.data, words) == ("see", picture.data, "n.txt:\nwords")
        kept = (await manager.save_state(session.agent)).state["messages"]
        assert len(str(kept)) < 5000
        await manager.prompt("again", session=session)
        assert seen[-1][0] == ["see", "[a file was here: image/png]", "n.txt:\nwords"]

    in_runtime(test)


def test_an_agent_without_a_model_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTRAY_MODEL", raising=False)

    class Bare(ChatAgent):
        pass

    async def test(manager: ManagerClient) -> None:
        await manager.deploy(App("bare", [Bare]))
        found = await manager.prompt("x", agent=Bare)
        assert found.error is not None
        assert "AGENTRAY_MODEL" in found.error.message

    in_runtime(test)


def test_turns_stay_together() -> None:
    def said(kind: str) -> dict[str, Any]:
        return {"parts": [{"part_kind": kind}]}

    user, reply, call = said("user-prompt"), said("text"), said("tool-return")
    assert last_turns([user, reply, user, reply], 3) == [user, reply]
    assert last_turns([user, reply, user, reply], 4) == [user, reply, user, reply]
    assert last_turns([user, reply, call, reply, call, reply], 2) == [
        user, reply, call, reply, call, reply,
    ]  # fmt: skip
    assert last_turns([], 3) == []
