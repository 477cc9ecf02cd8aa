"""Agents that answer typed requests."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from pydantic import BaseModel

from agentray import Agent, App, Event, Prompt, Request, on


class MakeReport(Request):
    """Makes a report of so many rows."""

    rows: int
    title: str = "Report"


class Report(BaseModel):
    title: str
    rows: int


class Shared(Request, name="shared.work"):
    text: str


class Part(Event):
    text: str


class Reporter(Agent):
    """Makes reports, row by row, as far as it is let."""

    rows: ClassVar[asyncio.Semaphore]

    @on(MakeReport)
    async def make(self, asked: MakeReport) -> Report:
        for row in range(asked.rows):
            await Reporter.rows.acquire()
            self.context.progress(f"row {row + 1}", current=row + 1, total=asked.rows)
        if asked.title == "fail":
            raise ValueError("no paper")
        return Report(title=asked.title, rows=asked.rows)

    @on(Shared)
    async def share(self, shared: Shared) -> list[Part]:
        return [Part(text=shared.text)]


class Helper(Agent):
    """Fails at its part."""

    @on(Shared)
    async def share(self, shared: Shared) -> str:
        self.context.publish(Part(text=shared.text))
        return "the rest"

    @on(Part)
    async def work(self, part: Part) -> None:
        raise RuntimeError(f"cannot {part.text}")

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        return f"Hello, {prompt.text}!"


def reports_app(rows: int = 1000) -> App:
    Reporter.rows = asyncio.Semaphore(rows)
    return App("reports", [Reporter, Helper])
