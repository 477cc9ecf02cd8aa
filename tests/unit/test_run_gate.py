"""Limits of runs at once: none is lost, each waits for its turn, and the limit holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentray import (
    Agent,
    AgentOptions,
    App,
    Event,
    Prompt,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.core.run_gate import RunGate
from agentray.event_run import DurabilityName
from agentray.protocol.event_runs import PromptDurability
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class GateMachine(RuleBasedStateMachine):
    """The model: who is inside, and who waits in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: RunGate[int, str] = RunGate(1)
        self.limit: int | None = 1
        self.next = 0
        self.inside: set[int] = set()
        self.waiting: list[int] = []
        self.gone: list[int] = []
        self.closed = False

    @initialize(limit=st.none() | st.integers(1, 3))
    def begin(self, limit: int | None) -> None:
        self.gate, self.limit = RunGate(limit), limit

    @rule()
    def enter(self) -> None:
        self.next += 1
        there_is_room = self.limit is None or len(self.inside) < self.limit
        assert self.gate.enter(self.next, f"work of {self.next}") is there_is_room
        if there_is_room:
            self.inside.add(self.next)
        else:
            self.waiting.append(self.next)

    @precondition(lambda self: self.next > 0)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        run = data.draw(st.integers(1, self.next))
        following = self.gate.leave(run)
        expected = None
        if run in self.inside:
            self.inside.remove(run)
            self.gone.append(run)
            if self.waiting and not self.closed:
                expected = self.waiting.pop(0)
                self.inside.add(expected)
        elif run in self.waiting:
            self.waiting.remove(run)
            self.gone.append(run)
        assert following == (None if expected is None else f"work of {expected}")

    @rule()
    def close(self) -> None:
        self.gate.close()
        self.closed = True

    @invariant()
    def the_limit_holds_and_nobody_is_lost(self) -> None:
        assert self.limit is None or len(self.inside) <= self.limit
        assert len(self.gate) == len(self.waiting)
        assert all(self.gate.waits(run) for run in self.waiting)
        assert not any(self.gate.waits(run) for run in (*self.inside, *self.gone))
        assert sorted([*self.inside, *self.waiting, *self.gone]) == list(range(1, self.next + 1))

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        if self.waiting and not self.closed:
            assert self.limit is not None
            assert len(self.inside) == self.limit


GateMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestGateAgainstItsModel: Any = GateMachine.TestCase


class OneByOne(Agent):
    """Handles one prompt at a time, and has room for two more."""

    options = AgentOptions(concurrency=1, mailbox=2)
    opened: asyncio.Event

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> str:
        await type(self).opened.wait()
        return prompt.text


@pytest.mark.parametrize("durability", ["run", "step"])
async def test_an_accepted_prompt_never_fails_for_want_of_room(durability: PromptDurability):
    """Who prompted was told that it is kept: it waits, however full the mailbox is."""
    OneByOne.opened = asyncio.Event()
    async with LocalRuntime(hosts=1) as manager, asyncio.TaskGroup() as group:
        await manager.deploy(App("one", [OneByOne]))
        texts = [f"prompt {number}" for number in range(20)]
        runs = [
            group.create_task(manager.prompt(text, agent="one_by_one/a", durability=durability))
            for text in texts
        ]
        await asyncio.sleep(1)  # of virtual time
        OneByOne.opened.set()
        ended = await asyncio.gather(*runs)
    assert [(run.status, run.result) for run in ended] == [
        (RunStatus.SUCCEEDED, text) for text in texts
    ]
    assert {run.attempt for run in ended} == {1}


class Counter(Agent):
    """Counts how many are handled at once, until the gate is opened."""

    options = AgentOptions(concurrency=None)
    now = 0
    most = 0
    begun: list[str]
    opened: asyncio.Event

    @on(Prompt)
    async def count(self, prompt: Prompt) -> str:
        cls = type(self)
        cls.begun.append(prompt.text)
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        try:
            await cls.opened.wait()
            if prompt.text.startswith("fail"):
                raise ValueError(prompt.text)
        finally:
            cls.now -= 1
        return prompt.text


def reset() -> None:
    Counter.now = Counter.most = 0
    Counter.begun = []
    Counter.opened = asyncio.Event()


TEXTS = [f"{'fail' if number % 4 == 0 else 'run'} {number}" for number in range(20)]


async def test_so_many_runs_at_once_the_others_wait_as_queued_in_order_and_none_is_lost() -> None:
    reset()
    runtime = LocalRuntime(hosts=1, max_runs=3)
    async with runtime as manager, asyncio.TaskGroup() as group:
        await manager.deploy(App("counters", [Counter]))
        runs = [group.create_task(manager.prompt(text)) for text in TEXTS]

        async def statuses() -> dict[str, int]:
            counts = await runtime.store.count_runs()
            return {status.value: count for status, count in counts.items() if count}

        async def three_run() -> bool:
            return await statuses() == {"running": 3, "queued": 17}

        async def others_wait() -> bool:
            (host,) = (await manager.status())["hosts"]
            return host.get("runs_waiting") == 17

        await eventually_async(three_run)
        await eventually_async(others_wait)
        assert (await statuses(), Counter.begun) == ({"running": 3, "queued": 17}, TEXTS[:3])
        Counter.opened.set()
        ended = [(await run).status for run in runs]
        assert ended == [
            RunStatus.FAILED if text.startswith("fail") else RunStatus.SUCCEEDED for text in TEXTS
        ]
        assert (Counter.begun, Counter.most) == (TEXTS, 3)


async def test_runs_that_wait_are_taken_over_when_their_host_dies() -> None:
    reset()
    runtime = LocalRuntime(hosts=2, max_runs=2)
    async with runtime as manager, asyncio.TaskGroup() as group:
        await manager.deploy(App("counters", [Counter]))
        runs = [group.create_task(manager.prompt(text)) for text in TEXTS]

        async def full() -> bool:
            return len(Counter.begun) == 4

        await eventually_async(full)
        await runtime.kill_host(runtime.hosts[0])
        Counter.opened.set()
        ended = [(await run).status for run in runs]
        assert ended.count(RunStatus.SUCCEEDED) == 15
        assert ended.count(RunStatus.FAILED) == 5


async def test_a_host_that_stops_begins_none_of_those_that_wait() -> None:
    reset()
    async with LocalRuntime(hosts=1, max_runs=1) as manager:
        await manager.deploy(App("counters", [Counter]))
        runs = [asyncio.create_task(manager.prompt(text)) for text in TEXTS[:5]]

        async def full() -> bool:
            return len(Counter.begun) == 1

        await eventually_async(full)
    await asyncio.gather(*runs, return_exceptions=True)
    assert Counter.begun == TEXTS[:1]


class Job(Event):
    number: int


class JobDone(TerminateEvent):
    number: int


class Worker(Agent):
    now = 0
    most = 0

    @on(Job, key="field:number")
    async def work(self, job: Job) -> JobDone:
        cls = type(self)
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        await Counter.opened.wait()
        cls.now -= 1
        return JobDone(number=job.number)


@pytest.mark.parametrize("durability", ["run", "step", "none"])
async def test_dispatched_events_wait_as_well_and_may_be_cancelled_while_they_do(
    durability: DurabilityName,
) -> None:
    reset()
    Worker.now = Worker.most = 0
    async with LocalRuntime(hosts=1, max_runs=2) as manager:
        await manager.deploy(App("workers", [Worker]))
        runs = [await manager.dispatch(Job(number=n), durability=durability) for n in range(8)]

        async def full() -> bool:
            return Worker.now == 2

        await eventually_async(full)
        await runs[6].cancel()
        assert Worker.now == 2
        Counter.opened.set()
        for number in (0, 1, 2, 3, 4, 5, 7):
            assert (await runs[number].result(JobDone, timeout=60)).number == number
        assert (await runs[6].wait(timeout=60)).status == RunStatus.CANCELLED
        assert Worker.most == 2
