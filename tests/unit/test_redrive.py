"""Runs that the manager hands to hosts which are about to begin them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentray import Agent, App, Prompt, RunStatus, on
from agentray.runtime.redrive import LEFT_OVER_AFTER_S
from agentray.store.base import Admission, NewRun
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, run


class SlowAnswers(MemoryStore):
    """Keeps runs at once, and says so late: others see them before whoever gave them."""

    async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
        admissions = await super().admit(runs)
        await asyncio.sleep(3 * LEFT_OVER_AFTER_S)
        return admissions


class Parrot(Agent):
    heard = 0

    @on(Prompt)
    async def hear(self, prompt: Prompt) -> str:
        type(self).heard += 1
        return prompt.text


def test_a_run_that_is_being_admitted_is_begun_once_with_its_first_attempt() -> None:
    async def scenario() -> None:
        async with LocalRuntime(store=SlowAnswers()) as manager:
            await manager.deploy(App("parrots", [Parrot], entry=Parrot))
            done = await manager.prompt("hello")
            assert (done.status, done.result) == (RunStatus.SUCCEEDED, "hello")
            assert done.attempt == 1, "the manager saw it before its host had heard of it"
            assert Parrot.heard == 1

    run(scenario())
