"""An app with middleware, for hosts in other processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from agentray import (
    DROP,
    Agent,
    App,
    Event,
    MessageReply,
    Middleware,
    Prompt,
    SentMessage,
    TerminateEvent,
    action,
    on,
)


class Refused(Exception):
    """By the guard."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The guard refuses {what}.")
        self.what = what


class Slip(Event):
    text: str


class Answer(TerminateEvent):
    text: str


class Guard(Middleware):
    """Does with a message, an event or a reply what its text says."""

    async def on_send(self, message: SentMessage) -> Any:
        await asyncio.sleep(0)
        return await self._judge(message, str(message.args), in_order=message.kind != "prompt")

    async def on_publish(self, event: Event) -> Any:
        return await self._judge(event, getattr(event, "text", ""), in_order=True)

    async def _judge(self, given: Any, text: str, *, in_order: bool) -> Any:
        if not in_order:
            return given
        if "drop" in text:
            return DROP
        if "refuse" in text:
            raise Refused("a text")
        if "forget" in text:
            return None
        if "hang" in text:
            await asyncio.Event().wait()
        return given


class Signature(Middleware):
    """Signs what is replied, with its process."""

    def on_reply(self, reply: MessageReply) -> MessageReply:
        if isinstance(reply.value, str):
            return reply.changed(value=f"{reply.value} by {os.getpid()}")
        return reply


class Scribe(Agent):
    @action
    async def copy(self, text: str) -> str:
        return text

    @action
    async def letters(self, text: str) -> AsyncIterator[str]:
        for letter in text:
            yield letter

    @action
    async def process(self) -> int:
        return os.getpid()

    @on(Prompt)
    async def write(self, prompt: Prompt) -> list[Event]:
        return [Slip(text=text) for text in prompt.text.split()]


class Clip(Agent):
    """Ends the run with the slip `end`; others pass by."""

    @on(Slip, key="field:text")  # so they live on both hosts
    async def take(self, slip: Slip) -> Answer | None:
        return Answer(text=f"{slip.text} in {os.getpid()}") if slip.text == "end" else None


app = App("guarded", [Scribe, Clip], entry=Scribe, middleware=[Guard, Signature])
