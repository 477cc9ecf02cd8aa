"""Classes of scripts and notebooks travel by value: patterns that are defined there work, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cloudpickle
import pytest

from agentray import Agent, App, Event, Handle, Prompt, TerminateEvent
from agentray.patterns import (
    AggregatorAgent,
    CollectorAgent,
    DebounceAgent,
    DurableMemory,
    Gathered,
    Goal,
    GoalEnded,
    Memory,
    ProblemSolver,
    Step,
    StepStatus,
    WorkingMemory,
    agent_of,
    sink_of,
)
from agentray.testing import LocalRuntime, run


class Part(Event):
    text: str


class Wanted(Goal):
    pass


class Whole(TerminateEvent):
    text: str


def classes() -> dict[str, type[Agent]]:
    """Return classes that no module has."""

    def split(_: Prompt) -> list[Event]:
        return [Part(text="a"), Part(text="b"), Wanted(problem=1)]

    def drop(part: Part) -> str:
        return part.text

    class Join(AggregatorAgent):
        needs: ClassVar = {Part: 2}
        deadline_s = 10.0

        async def combine(self, events: Gathered) -> Whole:
            return Whole(text="".join(sorted(part.text for part in events.all(Part))))

    class Calm(DebounceAgent):
        events = (Part,)
        quiet_s = 0.1

        async def settled(self, event: Part) -> None:
            assert event.text == "b"

    class Kept(CollectorAgent):
        events = (Part,)

    class Easy(ProblemSolver):
        goal = Wanted

        async def step(self, problem: Any, steps: Sequence[Step]) -> Step:
            assert not steps
            return Step(status=StepStatus.DONE, answer=problem)

    class Notes(DurableMemory):
        max_bytes = 100

    class Volatile(WorkingMemory):
        max_bytes = 100

    made = [Join, Calm, Kept, Easy, Notes, Volatile, agent_of(split, on=Prompt)]
    made.append(sink_of(drop, on=Part))
    return {cls.agent_type.name: cls for cls in made}


@pytest.mark.parametrize("name", sorted(classes()))
def test_a_class_keeps_what_it_declares_on_its_way(name: str) -> None:
    cls = classes()[name]
    copy = cloudpickle.loads(cloudpickle.dumps(cls))  # pyright: ignore[reportUnknownMemberType]
    assert copy.agent_type.name == cls.agent_type.name
    assert copy.agent_type.handlers.keys() == cls.agent_type.handlers.keys()
    assert copy.options == cls.options


def test_they_are_deployed_and_work() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            made = classes()
            ended = sink_of(print, on=GoalEnded, name="ended")
            await manager.deploy(App("by_value", [*made.values(), ended]))
            done = await manager.prompt("go")
            assert done.result == {"text": "ab"}
            kept: Handle[Any] = manager.handle("kept", "all")
            assert len(await kept.collected()) == 2
            assert (await manager.handle("easy", "e").solve(7)).answer == 7
            for kind in ("notes", "volatile"):
                memory = Memory(manager, "m", made[kind])  # type: ignore[arg-type]
                await memory.put("a", 1)
                assert await memory.get("a") == 1

    run(test())
