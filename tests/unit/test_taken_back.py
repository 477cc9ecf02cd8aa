"""New code that is not well is taken back: what ran before goes on, and everybody knows it."""

from __future__ import annotations

import asyncio

import pytest

from agentray import Agent, App, action
from agentray.errors import StartFailed
from agentray.store.base import AppRow
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from agentray.testing import run as run_virtual


class Stays(Agent):
    @action
    async def work(self) -> str:
        return "done"


class Goes(Stays):
    """Is not in the new code."""


def ill() -> None:
    raise RuntimeError("the model file is missing")


class _SlowStore(MemoryStore):
    """Takes its time to note an app; meanwhile the slots are back where they were."""

    async def put_app(self, app: AppRow) -> None:
        await asyncio.sleep(10)
        await super().put_app(app)


def test_a_driver_knows_what_ran_before_when_it_hears_that_new_code_was_taken_back():
    async def check() -> None:
        async with LocalRuntime(store=_SlowStore()) as manager:
            await manager.deploy(App("app", [Stays, Goes]))
            with pytest.raises(StartFailed, match="the model file"):
                await manager.deploy(App("app", [Stays], health=ill))
            assert await manager.handle(Goes, "g").work() == "done"
            assert await manager.handle(Stays, "s").work() == "done"

    run_virtual(check())
