"""Agents whose states count what was done to them, so that a lost or doubled effect shows."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from agentray import Agent, App, Event, Prompt, TerminateEvent, action, on
from agentray.patterns.aggregator import AggregatorAgent, Gathered


class Count(BaseModel):
    total: int = 0
    tokens: list[int] = []
    """Of those effects that may be asked for twice and count once."""


class Said(TerminateEvent):
    text: str


class Begun(Event):
    """Begins a run, whose result is twice its number."""

    number: int
    counter: str
    """Key of the agents that count it."""
    pause_s: float
    """How long each of their handlers takes."""


class LeftDone(Event):
    number: int


class RightDone(Event):
    number: int


class Both(TerminateEvent):
    number: int


class Counting(Agent):
    """Counts calls, tells and prompts."""

    state: Count

    @action
    async def add(self) -> int:
        self.state.total += 1
        return self.state.total

    @action(idempotent=True)
    async def add_once(self, token: int) -> int:
        if token not in self.state.tokens:
            self.state.tokens.append(token)
            self.state.total += 1
        return self.state.total

    @action(idempotent=True)
    async def total(self) -> int:
        return self.state.total

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Said:
        """Take a prompt such as `0.2 the text`: count it after 0.2 s, and say the text."""
        pause_s, _, text = prompt.text.partition(" ")
        await asyncio.sleep(float(pause_s))
        self.state.total += 1
        return Said(text=text)


class LeftHalf(Agent):
    """Does one half of a run, and counts it."""

    state: Count

    @on(Begun, key="field:counter")
    async def half(self, begun: Begun) -> LeftDone:
        await asyncio.sleep(begun.pause_s)
        self.state.total += 1
        return LeftDone(number=begun.number)

    @action(idempotent=True)
    async def total(self) -> int:
        return self.state.total


class RightHalf(Agent):
    """Does the other half."""

    state: Count

    @on(Begun, key="field:counter")
    async def half(self, begun: Begun) -> RightDone:
        await asyncio.sleep(begun.pause_s)
        self.state.total += 1
        return RightDone(number=begun.number)

    @action(idempotent=True)
    async def total(self) -> int:
        return self.state.total


class Join(AggregatorAgent):
    """Waits for both halves."""

    needs = (LeftDone, RightDone)

    async def combine(self, events: Gathered) -> Both:
        return Both(number=events[LeftDone].number + events[RightDone].number)


app = App("chaos", [Counting, LeftHalf, RightHalf, Join])
