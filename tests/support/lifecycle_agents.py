"""Agents of tests of the life of runs, in a module that hosts can import."""

from __future__ import annotations

import asyncio

from agentray import Agent, Answered, App, Ask, Prompt, on


class Approver(Agent):
    """Asks before it does anything."""

    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Ask:
        return Ask(question=f"{prompt.text}?", answer=bool, details=prompt.text)

    @on(Answered)
    async def go_on(self, answered: Answered) -> str:
        return f"{answered.details}: {answered.value}"


class Toiler(Agent):
    """Works for as many seconds as it is told, and spends a token each time it looks up."""

    @on(Prompt)
    async def toil(self, prompt: Prompt) -> str:
        for _ in range(int(float(prompt.text) * 20)):
            self.context.spend(tokens=1)
            await asyncio.sleep(0.05)
        return "done"


app = App("lives", [Approver, Toiler])
