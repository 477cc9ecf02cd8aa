"""Debouncing agents and solvers in runs that are durable per step, when their host dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentray import Agent, AgentId, App, Event, TerminateEvent, on
from agentray.patterns import DebounceAgent
from agentray.patterns.solver import Goal, ProblemSolver, Solution, SolutionStatus, Step, StepStatus
from agentray.protocol.runs import RunStatus
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Edited(Event):
    texts: list[str]


class Changed(Event):
    document: str
    text: str


class Indexed(TerminateEvent):
    text: str


class Editor(Agent):
    @on(Edited)
    async def edit(self, edited: Edited) -> list[Event]:
        return [Changed(document="a", text=text) for text in edited.texts]


class Indexer(DebounceAgent):
    events = (Changed,)
    key = "field:document"
    quiet_s = 0.2

    async def settled(self, event: Changed) -> Indexed:
        BEGUN.append(event.text)
        await GATE.wait()
        return Indexed(text=event.text)


class Riddle(Goal):
    pass


class Solved(TerminateEvent):
    answer: int
    steps: int


class Solver(ProblemSolver):
    goal = Riddle

    async def step(self, problem: int, steps: Sequence[Step]) -> Step:
        BEGUN.append(f"step {len(steps)}")
        if steps:
            await GATE.wait()
            return Step(status=StepStatus.DONE, answer=2 * problem)
        return Step(status=StepStatus.CONTINUE)

    def ended(self, solution: Solution) -> Event:
        assert solution.status is SolutionStatus.DONE
        return Solved(answer=solution.answer, steps=len(solution.steps))


BEGUN: list[str] = []
GATE = asyncio.Event()


async def begun(*texts: str) -> bool:
    return list(texts) == BEGUN


async def test_a_debouncing_agent_gets_the_event_again_that_it_had_not_done_with():
    BEGUN.clear()
    GATE.clear()
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(App("index", [Editor, Indexer]))
        run = await manager.dispatch(Edited(texts=["1", "2", "3"]), durability="step")
        await eventually_async(lambda: begun("3"), timeout_s=30)
        await runtime.kill_host(runtime.host_of(AgentId("indexer", "a")) or "")
        # What a later one had replaced was done; the last one was not.
        await eventually_async(lambda: begun("3", "3"), timeout_s=30)
        GATE.set()
        assert (await run.result(Indexed)).text == "3"
        assert run.status is RunStatus.SUCCEEDED
        assert not await runtime.store.load_messages(["editor", "indexer"], range(256))


async def test_a_solver_begins_a_goal_anew():
    BEGUN.clear()
    GATE.clear()
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(App("riddles", [Solver]))
        run = await manager.dispatch(Riddle(problem=21, goal_id="g"), durability="step")
        await eventually_async(lambda: begun("step 0", "step 1"), timeout_s=30)
        await runtime.kill_host(runtime.host_of(AgentId("solver", "g")) or "")
        await eventually_async(lambda: begun(*["step 0", "step 1"] * 2), timeout_s=30)
        GATE.set()
        solved = await run.result(Solved)
        assert (solved.answer, solved.steps) == (42, 2)
        assert not await runtime.store.load_messages(["solver"], range(256))
