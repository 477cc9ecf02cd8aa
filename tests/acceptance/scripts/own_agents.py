"""A user's script with agents of its own; a test runs it and reads what it prints."""

# ruff: noqa: T201
import asyncio
from typing import assert_type

from pydantic import BaseModel

import agentray
from agentray import Agent, App, Event, Prompt, TerminateEvent, action, on


class Count(BaseModel):
    greeted: int = 0


class Greeted(Event):
    who: str


class Answer(TerminateEvent):
    text: str


class ScriptGreeter(Agent):
    state: Count

    @action
    async def greet(self, name: str) -> str:
        self.state.greeted += 1
        return f"Hello {name}, number {self.state.greeted}."

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Greeted:
        return Greeted(who=prompt.text)


class ScriptWriter(Agent):
    @on(Greeted)
    async def write(self, greeted: Greeted) -> Answer:
        return Answer(text=f"Dear {greeted.who}")


class ScriptAdder(Agent):
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.total = start
        self.step = step

    @action
    async def add(self) -> int:
        self.total += self.step
        return self.total


app = App("from_a_script", [ScriptGreeter, ScriptWriter])


async def main() -> None:
    async with agentray.connect() as manager:
        print("deploy:", await manager.deploy(app))
        print("again:", await manager.deploy(app))
        door = manager.handle(ScriptGreeter, "door")
        print("call:", await door.greet("Ada"))
        print("typed call:", assert_type(await door.call(ScriptGreeter.greet, name="Grace"), str))
        adder = await manager.launch(ScriptAdder, args=(40,), kwargs={"step": 2}, name="forty")
        print("launched:", await adder.add())
        run = await manager.prompt("Edsger", agent=ScriptGreeter)
        print("prompt:", run.status.value, run.result)
        found = await manager.agents("script_greeter")
        print("agents:", "script_greeter/door" in {agent["agent"] for agent in found})


asyncio.run(main())
