"""Runs that have their result and wait for the rest: how often the other hosts are told."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from agentray import Agent, App, Event, TerminateEvent, on
from agentray.event_run import EventRun
from agentray.protocol.codec import decode
from agentray.protocol.event_runs import PartsCall
from agentray.runtime.run_parts import RunParts
from agentray.runtime.turn import Turn
from agentray.testing import LocalRuntime
from agentray.testing import run as run_in_virtual_time

_RUNS = 40


class Begun(Event):
    number: int


class Answered(TerminateEvent):
    number: int


class Quick(Agent):
    @on(Begun)
    async def answer(self, begun: Begun) -> Answered:
        return Answered(number=begun.number)


class Slow(Agent):
    @on(Begun)
    async def rest(self, _: Begun) -> None:
        await asyncio.sleep(0.7)


def test_hosts_are_told_of_each_run_by_itself_and_not_with_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: Counter[str] = Counter()
    handle = RunParts.handle

    def handled(parts: RunParts, turn: Turn) -> None:
        if turn.envelope.name == PartsCall.CLOSE:
            told.update(decode(turn.envelope.payload))
        handle(parts, turn)

    monkeypatch.setattr(RunParts, "handle", handled)

    async def scenario() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("answers", [Quick, Slow]))
            runs: list[EventRun] = []
            for number in range(_RUNS):
                runs.append(await manager.dispatch(Begun(number=number), durability="none"))
                await asyncio.sleep(0.025)
            results = [await run.result(Answered) for run in runs]
            assert [result.number for result in results] == list(range(_RUNS))

    run_in_virtual_time(scenario())
    assert len(told) == _RUNS
    assert set(told.values()) == {1}
