"""The agents that are measured: they do nothing, so that what remains is the way to them."""

from __future__ import annotations

import asyncio

from agentray.agent import Agent, AgentOptions, action, on
from agentray.app import App
from agentray.events import Prompt


class Echo(Agent):
    """Answers at once."""

    options = AgentOptions(name="microbenchmark_echo", idle_timeout_s=600.0)

    @action
    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        """Return the prompt."""
        return prompt.text


class Sleeper(Agent):
    """Answers late, any number of calls at once."""

    options = AgentOptions(name="microbenchmark_sleeper", concurrency=None)

    @action
    async def doze(self, seconds: float) -> float:
        """Wait, then return the seconds."""
        await asyncio.sleep(seconds)
        return seconds


app = App("agentray_microbenchmark", [Echo, Sleeper], entry=None)
