"""AutoGen under measurement, on whichever runtime."""

from __future__ import annotations

import asyncio

from autogen_core import AgentId, AgentRuntime

from benchmarks.peers.driving import MEASUREMENTS, System
from benchmarks.peers.systems.autogen_agents import Noted, Ping, Text, Ticked, topic


class AutoGen(System):
    """What both runtimes have in common; `runtime` is set when it has started."""

    figures = MEASUREMENTS
    runtime: AgentRuntime

    async def call(self) -> None:
        await self._ping("one")

    async def create(self, number: int) -> None:
        await self._ping(f"new-{number}")

    async def _ping(self, key: str) -> None:
        await self.runtime.send_message(Ping(1), AgentId("echo", key))

    async def publish(self, count: int) -> None:
        for number in range(count):
            noted = Noted(number)
            await self.runtime.publish_message(noted, topic(noted))

    async def analyse(self, given: list[str]) -> None:
        self.tally.clear()
        for number, text in enumerate(given):
            message = Text(str(number), text)
            await self.runtime.publish_message(message, topic(message))
        await self.sunk(len(given))

    async def dispatch(self) -> None:
        ticked = Ticked(1)
        await self.runtime.publish_message(ticked, topic(ticked))

    async def warm_up(self) -> None:
        """Wait until calls are answered: one to an agent type not yet known is never."""
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await self.call()
            except TimeoutError:
                continue
            return
