"""Agents for tests of sessions: they keep what they are told, and wait where a test says so."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import BaseModel

from agentray import Agent, App, Prompt, on
from agentray.events import Event
from agentray.protocol.runs import Run
from tests.support.eventually import eventually_async


class Noted(BaseModel):
    lines: list[str] = []


class Gates:
    """What handlers wait for, by the text of their prompt, where that begins with `wait`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._open: dict[str, asyncio.Event] = {}

    def clear(self) -> None:
        self.begun, self.ended, self._open = [], [], {}

    def gate(self, text: str) -> asyncio.Event:
        return self._open.setdefault(text, asyncio.Event())

    async def pass_by(self, text: str) -> None:
        self.begun.append(text)
        if text.startswith("wait"):
            await self.gate(text).wait()
        self.ended.append(text)

    async def until_begun(self, text: str) -> None:
        async def begun() -> bool:
            return text in self.begun

        await eventually_async(begun)


gates = Gates()


class Echoed(Event):
    text: str


class Scribe(Agent):
    """Keeps what it is told, at its end."""

    state: Noted

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        await gates.pass_by(prompt.text)
        self.state.lines.append(prompt.text)
        return {"lines": self.state.lines}


class Stubborn(Agent):
    """Keeps a line at once, and has others work on it."""

    state: Noted

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        self.state.lines.append(prompt.text)
        if prompt.text.startswith("wait"):
            return Echoed(text=prompt.text)
        return {"lines": self.state.lines}


class Slow(Agent):
    """Works on what prompts set off."""

    @on(Echoed)
    async def echoed(self, echoed: Echoed) -> None:
        await gates.pass_by(echoed.text)


class Deaf(Agent):
    """Takes no prompts."""


app = App("scribes", [Scribe, Stubborn, Slow, Deaf])


def said(run: Run) -> list[str]:
    return run.result["lines"]


class Dawdler(Agent):
    """Keeps a line at once, and takes its time: the prompt is the seconds and the line."""

    state: Noted

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        seconds, _, line = prompt.text.partition(" ")
        self.state.lines.append(line)
        await asyncio.sleep(float(seconds))
        return {"lines": self.state.lines, "process": os.getpid()}


dawdlers = App("dawdlers", [Dawdler])
