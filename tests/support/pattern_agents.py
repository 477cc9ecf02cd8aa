"""Agents made of patterns, for tests on real clusters. Gates are files that the test makes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from agentray import Agent, App, Event, Prompt, TerminateEvent, action, on
from agentray.patterns import (
    AggregatorAgent,
    CollectorAgent,
    DebounceAgent,
    DurableMemory,
    Gathered,
    Goal,
    Memory,
    Pipeline,
    ProblemSolver,
    Solution,
    Step,
    StepStatus,
    WorkingMemory,
    agent_of,
    gather,
    reports_failure,
)

_LOOK_EVERY_S = 0.05


async def until_there(gate: str) -> None:
    while not await asyncio.to_thread(Path(gate).exists):  # noqa: ASYNC110 - a test makes it
        await asyncio.sleep(_LOOK_EVERY_S)


# Aggregators: `1 2 3` are votes, `-` a failing branch, a path a vote that waits for its file.


class Asked(Event):
    word: str


class Vote(Event):
    word: str
    process: int


class Verdict(TerminateEvent):
    votes: list[str]
    failed: list[str]


def clerk(prompt: Prompt) -> Iterator[Asked]:
    """Ask for one vote per word."""
    return (Asked(word=word) for word in prompt.text.split())


class Voter(Agent):
    @on(Asked, key="field:word")
    @reports_failure(Vote)
    async def vote(self, asked: Asked) -> Vote:
        if asked.word == "-":
            raise ValueError("no vote")
        if asked.word.startswith("/"):
            await until_there(asked.word)
        return Vote(word=asked.word, process=os.getpid())


class Votes(AggregatorAgent):
    needs: ClassVar = {Vote: 3}
    deadline_s = 20.0

    async def combine(self, events: Gathered) -> Verdict:
        failed = [failure.error for failure in events.failures]
        return Verdict(votes=sorted(v.word for v in events.all(Vote)), failed=failed)

    async def incomplete(self, events: Gathered) -> Verdict:
        return await self.combine(events)

    @action
    async def process(self) -> int:
        return os.getpid()


Clerk = agent_of(clerk, on=Prompt)


# Memories, and those who use them


class Writer(Agent):
    @action
    async def add(self, memory: Memory, times: int) -> int:
        for _ in range(times):
            await memory.update("count", lambda n: n + 1, default=0)
        return os.getpid()


class ProcessMemory(DurableMemory):
    @action
    async def process(self) -> int:
        return os.getpid()


# Solvers, bursts, pipelines


class Wanted(Goal):
    pass


class Solved(TerminateEvent):
    goal_id: str
    status: str
    answer: Any


class Halver(ProblemSolver):
    """Halves a number until it is less than one."""

    goal = Wanted

    async def step(self, problem: float, steps: Sequence[Step]) -> Step:
        half = (steps[-1].answer if steps else problem) / 2
        return Step(status=StepStatus.DONE if half < 1 else StepStatus.CONTINUE, answer=half)

    def ended(self, solution: Solution) -> Solved:
        return Solved(goal_id=solution.goal, status=solution.status, answer=solution.answer)


class Asker(Agent):
    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Wanted:
        return Wanted(problem=float(prompt.text), goal_id=f"goal {prompt.text}")


class Changed(Event):
    number: int


class Settled(Event):
    number: int


class Burst(Agent):
    """Publishes many changes at once, to several sources of bursts."""

    @on(Prompt)
    async def change(self, prompt: Prompt) -> Iterator[Changed]:
        return (Changed(number=number) for number in range(int(prompt.text)))


class Calm(DebounceAgent):
    events = (Changed,)
    key = "key:one"
    quiet_s = 0.3
    max_wait_s = 10.0

    async def settled(self, event: Changed) -> Settled:
        return Settled(number=event.number)


class AllSettled(CollectorAgent):
    events = (Settled,)


class Foreman(Agent):
    """Fans out to voters' memories through a pipeline, from within an agent."""

    @action
    async def lengths(self, namespaces: list[str]) -> list[int]:
        def memory(namespace: str) -> Memory:
            return Memory(self, namespace)

        async def put(memory: Memory) -> int:
            return await memory.put("name", memory.namespace)

        await Pipeline(memory, put).map(namespaces, limit=8)

        async def length(namespace: str) -> int:
            return len(await memory(namespace).get("name"))

        return await gather(namespaces, length, limit=8)


app = App(
    "patterns",
    [
        *(Clerk, Voter, Votes, Writer, ProcessMemory, WorkingMemory, Halver, Asker),
        *(Burst, Calm, AllSettled, Foreman),
    ],
)
