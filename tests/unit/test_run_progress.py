"""What is written of runs while they go on, and that no more is written than is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from agentray import Agent, App, Prompt, on
from agentray.protocol.runs import RunStatus
from agentray.store.base import CommitOutcome, Effects
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

gate = asyncio.Event()


class Patient(Agent):
    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        if prompt.text == "wait":
            await gate.wait()
        return prompt.text


class Watched(MemoryStore):
    """Notes what is written of runs; its commits may be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[str] = []
        self.commits: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def mark_running(self, runs: Mapping[str, datetime], host: str) -> None:
        self.marked += runs
        await super().mark_running(runs, host)

    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        await self.gate.wait()
        self.commits += [len(effects.events) for effects in batch]
        return await super().commit(host, batch)

    async def has_marked(self) -> bool:
        return bool(self.marked)

    async def has_written(self) -> bool:
        return len(self.marked) == len(self.commits) == 1


async def test_a_run_that_goes_on_is_marked_and_its_events_are_written():
    gate.clear()
    store = Watched()
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("patience", [Patient]))
        prompting = asyncio.create_task(manager.prompt("wait", agent=Patient))
        await eventually_async(store.has_written)
        (run_id,) = store.marked
        stored = await store.get_run(run_id)
        assert stored is not None
        assert stored.run.status is RunStatus.RUNNING
        gate.set()
        assert (await prompting).result == "wait"
        assert len(store.commits) == 2


async def test_of_a_run_that_waits_to_be_kept_as_ended_only_its_end_is_written():
    gate.set()
    store = Watched()
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("patience", [Patient]))
        store.gate.clear()
        prompting = asyncio.create_task(manager.prompt("quick", agent=Patient))
        late = asyncio.create_task(manager.prompt("wait", agent=Patient))
        gate.clear()
        await eventually_async(store.has_marked)  # the other one: several turns have passed
        store.gate.set()
        ended = await prompting
        gate.set()
        assert ended.id not in store.marked
        assert (await late).id in store.marked
