"""Agents of the tests of event runs: spread over all hosts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentray import Agent, AgentOptions, App, Event, TerminateEvent, on

_LOOK_EVERY_S = 0.05


class Started(Event):
    number: int
    gate: str = ""
    """A file without which nobody answers."""


class Left(Event):
    number: int


class Right(Event):
    number: int


class Summed(TerminateEvent):
    number: int


class Ping(Event):
    """Begins an exchange that has no end."""


class Pong(Event):
    pass


class LeftAgent(Agent):
    @on(Started)
    async def left(self, started: Started) -> Left:
        if started.number < 0:
            raise ValueError(f"negative: {started.number}")
        while started.gate and not await self.run_sync(Path(started.gate).exists):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        return Left(number=started.number)


class RightAgent(Agent):
    @on(Started)
    async def right(self, started: Started) -> Right:
        return Right(number=started.number)


class Sum(Agent):
    options = AgentOptions(idle_timeout_s=600)

    def __init__(self) -> None:
        self._seen = 0

    @on(Left, Right)
    async def add(self, part: Left | Right) -> Summed | None:
        self._seen += 1
        return Summed(number=2 * part.number) if self._seen == 2 else None


class One(Agent):
    @on(Ping, key="any:16")
    async def ping(self, _: Ping) -> Pong:
        return Pong()


class Two(Agent):
    @on(Pong, key="any:16")
    async def pong(self, _: Pong) -> Ping:
        return Ping()


app = App("event-runs", [LeftAgent, RightAgent, Sum, One, Two])
