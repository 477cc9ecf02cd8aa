"""Agents of the tests' own. What they wait for is a file, which the test makes when it is time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from agentray import Agent, AgentOptions, App, Prompt, TerminateEvent, action, on

_LOOK_EVERY_S = 0.05


class Said(TerminateEvent):
    text: str


class Parrot(Agent):
    """Answers at once."""

    @on(Prompt)
    async def repeat(self, prompt: Prompt) -> Said:
        return Said(text=prompt.text)

    @action
    async def echo(self, value: object) -> object:
        return value

    @action(idempotent=True)
    async def twice(self, value: int) -> int:
        return 2 * value

    @action
    async def process(self) -> int:
        return os.getpid()

    @action
    async def fail(self, message: str) -> None:
        raise ValueError(message)


class Waiter(Agent):
    """Is busy until a file is there."""

    options = AgentOptions(mailbox=100)

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> Said:
        """Take a prompt such as `/tmp/gate the text`, and say the text when the gate is there."""
        gate, _, text = prompt.text.partition(" ")
        self.context.progress("waiting")
        await self._until_there(gate)
        return Said(text=text)

    @action
    async def wait(self, gate: str) -> int:
        return await self._until_there(gate)

    @action(idempotent=True)
    async def wait_or_begin_again(self, gate: str) -> int:
        return await self._until_there(gate)

    @action
    async def process(self) -> int:
        return os.getpid()

    async def _until_there(self, gate: str) -> int:
        while not await self.run_sync(Path(gate).exists):  # noqa: ASYNC110 - a test makes it
            await asyncio.sleep(_LOOK_EVERY_S)
        return os.getpid()


class Named(Agent):
    """Is made with arguments."""

    def __init__(self, greeting: str, *, mark: str = "!") -> None:
        self._text = greeting + mark

    @action(idempotent=True)
    async def greet(self) -> tuple[str, int]:
        return self._text, os.getpid()


class Tally(BaseModel):
    total: int = 0


class Ledger(Agent):
    """Keeps a total."""

    state: Tally

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total


app = App("helpers", [Parrot, Waiter, Named, Ledger])
