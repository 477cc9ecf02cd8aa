"""Runs outlive their hosts: whatever dies in the midst, each ends once, with its own answer."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    Event,
    Prompt,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.config import MAX_ATTEMPTS, QUARANTINE_AFTER
from agentray.patterns.aggregator import AggregatorAgent, Gathered
from agentray.runtime.packing import pack_app
from agentray.store.base import AppRow
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime

attempts: Counter[str] = Counter()


class Asked(Event):
    text: str


class Reversed(Event):
    text: str


class Counted(Event):
    length: int


class Both(TerminateEvent):
    text: str
    length: int


class Desk(Agent):
    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Asked:
        return Asked(text=prompt.text)


class Reverser(Agent):
    options = AgentOptions(concurrency=None)

    @on(Asked, key="any:4")
    async def reverse(self, asked: Asked) -> Reversed:
        return Reversed(text=asked.text[::-1])


class Counter_(Agent):  # noqa: N801 - the plain name is taken by the standard library's
    options = AgentOptions(name="counter", concurrency=None)

    @on(Asked, key="any:4")
    async def count(self, asked: Asked) -> Counted:
        await asyncio.sleep(0.3)  # long enough that a host dies meanwhile
        return Counted(length=len(asked.text))


class Joiner(AggregatorAgent):
    needs = (Reversed, Counted)

    async def combine(self, events: Gathered) -> Both:
        return Both(text=events[Reversed].text, length=events[Counted].length)


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_runs_end_with_their_own_answers_when_a_host_dies(victim: int) -> None:
    runtime = LocalRuntime(hosts=3)
    async with runtime as manager:
        await manager.deploy(App("both", [Desk, Reverser, Counter_, Joiner], entry=Desk))
        texts = [f"text number {n}" for n in range(20)]
        prompts = [asyncio.create_task(manager.prompt(text)) for text in texts]
        await asyncio.sleep(0.15)  # the first halves are done, the second ones under way
        await runtime.kill_host(runtime.hosts[victim])
        for text, prompt in zip(texts, prompts, strict=True):
            run = await asyncio.wait_for(prompt, 20)
            assert run.status is RunStatus.SUCCEEDED, run.error
            assert run.result == {"text": text[::-1], "length": len(text)}
        for prompt in prompts:
            stored = await runtime.store.get_run(prompt.result().id)
            events = await runtime.store.run_events(prompt.result().id)
            assert stored is not None
            assert stored.run.status is RunStatus.SUCCEEDED
            assert [event.offset for event in events] == list(range(len(events)))
            assert [event.kind for event in events].count("succeeded") == 1


class Poison(Agent):
    """Kills the host that it runs on."""

    runtime: LocalRuntime

    @on(Prompt)
    async def kill(self, prompt: Prompt) -> str:
        attempts[prompt.text] += 1
        # Its own one: what the driver knows of where agents are may be older, or newer.
        for host in Poison.runtime.network.hosts.values():
            if host.runs(self):
                host.die()
        await asyncio.sleep(3600)
        return "never"


@pytest.mark.parametrize(
    ("quarantine_after", "deaths", "error"),
    [(QUARANTINE_AFTER, QUARANTINE_AFTER, "AgentQuarantined"), (0, MAX_ATTEMPTS, "HostDied")],
    ids=["with quarantine", "without"],
)
async def test_a_run_that_kills_every_host_ends_dead_and_the_others_go_on(
    quarantine_after: int, deaths: int, error: str
) -> None:
    attempts.clear()
    runtime = Poison.runtime = LocalRuntime(hosts=2, quarantine_after=quarantine_after)
    async with runtime as manager:
        await manager.deploy(App("poison", [Poison, Desk, Reverser, Counter_, Joiner], entry=Desk))
        run = await asyncio.wait_for(manager.prompt("poison", agent=Poison), 60)
        assert run.status is RunStatus.DEAD
        assert run.error is not None
        assert run.error.type == error
        assert f"{deaths} {'hosts' if quarantine_after else 'attempts'}" in run.error.message
        assert attempts["poison"] == deaths  # the one that gives it up costs no host
        letter = (await manager.dead_letters())[0]
        assert (letter.kind, letter.run_id, letter.error) == ("run", run.id, run.error)
        healthy = await asyncio.wait_for(manager.prompt("fine"), 20)
        assert healthy.result == {"text": "enif", "length": 4}


async def test_an_app_whose_code_is_gone_fails_its_own_agents_only() -> None:
    store = MemoryStore()
    spec = replace(pack_app(App("lost", [Poison])), app=b"its module is gone")
    row = AppRow("lost", pickle.dumps(spec), "", "digest", "running", datetime.now(UTC))
    await store.put_app(row)
    async with LocalRuntime(hosts=2, store=store) as manager:
        await manager.deploy(App("both", [Desk, Reverser, Counter_, Joiner], entry=Desk))
        run = await asyncio.wait_for(manager.prompt("fine", agent=Desk), 20)
        assert run.result == {"text": "enif", "length": 4}
        with pytest.raises(AgentFailed, match="cannot be loaded"):
            await asyncio.wait_for(manager.prompt("hello", agent="poison"), 20)
