"""Agents for the chat interfaces: they do what the last message says."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from pydantic import BaseModel

from agentray import Agent, AgentOptions, Answered, App, Ask, Prompt, on
from agentray.protocol.chat import ChatReply, TokenUsage, ToolCall


class Plain(Agent):
    """Takes text, and knows nothing of conversations."""

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> Any:
        match prompt.text:
            case "fail":
                raise ValueError("no")
            case "json":
                return {"city": "Ulm"}
            case "ask":
                return Ask(question="Really?", answer=bool)
            case text:
                return f"Hello, {text}!"

    @on(Answered)
    async def go_on(self, answered: Answered) -> str:
        return f"So {answered.value}."


class Counting(BaseModel):
    asked: int = 0


class Counter(Agent):
    """Counts what it is asked, in its state; asked to wait, it waits as a `Waiter` does."""

    state: Counting

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        self.state.asked += 1
        if prompt.text == "wait":
            await Waiter.gate.wait()
        return f"{self.state.asked}"


class Poet(Agent):
    """Says what it answers as it goes."""

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        lines = ["Roses are red,\n", "violets are blue,\n", f"{prompt.text} is you."]
        for line in lines:
            self.context.stream_text(line)
            await asyncio.sleep(0.02)  # longer than pieces are gathered
        return "".join(lines)


class Waiter(Agent):
    """Answers when it is told to."""

    gate: ClassVar[asyncio.Event]
    asked: ClassVar[int] = 0

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        Waiter.asked += 1
        await Waiter.gate.wait()
        return f"at last, {prompt.text}"


class Model(Agent):
    """Takes conversations, as a language model does."""

    options = AgentOptions(accepts=frozenset({"tools", "json_schema", "images"}))

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> ChatReply:
        assert prompt.chat is not None
        chat, last = prompt.chat, prompt.chat.messages[-1]
        usage = TokenUsage(input_tokens=7, output_tokens=3, cached_tokens=2)
        if last.role == "tool":
            return ChatReply(text=f"The weather is {last.text}.", usage=usage)
        if chat.tools and chat.tool_choice != "none":
            calls = tuple(
                ToolCall(id=f"call_{n}", name=tool.name, arguments='{"city":"Ulm"}')
                for n, tool in enumerate(chat.tools)
            )
            return ChatReply(tool_calls=calls, usage=usage)
        if chat.answer_format is not None:
            return ChatReply(text=json.dumps({"city": "Ulm"}), usage=usage)
        if chat.text == "cut":
            return ChatReply(text="And so", finish_reason="length", usage=usage)
        heard = [f"{message.role}: {message.text}" for message in chat.messages]
        if chat.instructions:
            heard.insert(0, f"instructions: {chat.instructions}")
        if chat.text == "how":
            heard.append(f"{chat.sampling.temperature} {chat.sampling.max_tokens} {chat.user}")
        return ChatReply(text="\n".join(heard), usage=usage)


def chat_app() -> App:
    Waiter.gate, Waiter.asked = asyncio.Event(), 0
    return App("chats", [Plain, Counter, Poet, Waiter, Model], entry=Plain)
