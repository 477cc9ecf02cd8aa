"""Solving a problem step by step, until a step says that it is done.

::

    class Planner(ProblemSolver):
        max_steps = 5

        async def step(self, problem: str, steps: Sequence[Step]) -> Step:
            ...

    solution = await manager.handle(Planner, "goal-1").solve("How many …?")
    assert solution.status is SolutionStatus.DONE
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from agentray.agent import Agent, AgentOptions, action, on
from agentray.errors import ConfigurationError, PayloadError
from agentray.events import Event
from agentray.ids import new_id
from agentray.patterns.declared import declares_nothing
from agentray.patterns.llm import LanguageModel

P = TypeVar("P")


class StepStatus(StrEnum):
    """What a step says of its problem."""

    CONTINUE = "continue"
    DONE = "done"
    FAILED = "failed"


class Step(BaseModel):
    """What one step came to. Subclass it with what your steps find out.

    Attributes:
        status: whether there is more to do.
        answer: of the step that is done; what says why, of one that has failed.
        notes: for the steps after this one.
    """

    model_config = ConfigDict(frozen=True)

    status: StepStatus = Field(
        description="continue: more steps are needed; done: `answer` solves the problem; failed: "
        "it cannot be solved."
    )
    answer: Any = None
    notes: str = Field(default="", description="What this step found out, for the next one.")

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        if self.status is StepStatus.DONE and self.answer is None:
            raise ValueError("A step that is done has an answer.")
        return self


class TextStep(Step):
    """A step whose answer is text: what a language model can be asked for."""

    answer: str | None = Field(default=None, description="The answer, as soon as there is one.")


class SolutionStatus(StrEnum):
    """How an attempt to solve a problem ended."""

    DONE = "done"
    FAILED = "failed"  # a step said so
    OUT_OF_STEPS = "out_of_steps"
    OUT_OF_TIME = "out_of_time"


class Solution(BaseModel):
    """What came of a problem.

    Attributes:
        goal: the goal's id.
        problem: as it was given.
        status: how it ended.
        answer: of the last step, if it was done or failed.
        steps: all that were made.
    """

    model_config = ConfigDict(frozen=True)

    goal: str
    problem: Any
    status: SolutionStatus
    answer: Any = None
    steps: tuple[SerializeAsAny[Step], ...] = ()


class Goal(Event):
    """A problem is to be solved. Subclass it, and name the subclass in a solver's `goal`."""

    problem: Any
    goal_id: str = Field(default_factory=lambda: new_id("goal"))


class GoalEnded(Event):
    """What came of a goal."""

    goal_id: str
    solution: Solution


StepFunction = Callable[[P, tuple[Step, ...]], Awaitable[Step] | Step]
"""Takes the problem and the steps that were made, and makes the next one."""


async def solve(
    problem: P,
    step: StepFunction[P],
    *,
    max_steps: int = 10,
    timeout: float | None = 300.0,
    goal: str | None = None,
) -> Solution:
    """Make steps until one is done or has failed, or there are no more steps or time.

    Args:
        problem: what `step` gets.
        step: makes one step; `asking(model)` for a language model.
        max_steps: at most so many.
        timeout: seconds for all of them; a step under way is cancelled then. None: no limit.
        goal: an id for the solution; None: a new one.

    Raises:
        PayloadError: a step is no `Step`.
        Exception: what `step` raised.
    """
    steps: list[Step] = []
    patience = asyncio.timeout(timeout)

    def ended(status: SolutionStatus, answer: Any = None) -> Solution:
        return Solution(
            goal=goal or new_id("goal"),
            problem=problem,
            status=status,
            answer=answer,
            steps=tuple(steps),
        )

    try:
        async with patience:
            for _ in range(max_steps):
                made = step(problem, tuple(steps))
                made = await made if inspect.isawaitable(made) else made
                steps.append(_checked(made))
                await asyncio.sleep(0)  # a step that awaits nothing must not outlive the timeout
                if made.status is not StepStatus.CONTINUE:
                    return ended(SolutionStatus(made.status.value), made.answer)
    except TimeoutError:
        if not patience.expired():
            raise
        return ended(SolutionStatus.OUT_OF_TIME)
    return ended(SolutionStatus.OUT_OF_STEPS)


def asking(
    model: LanguageModel[Any], render: Callable[[Any, Sequence[Step]], str] | None = None
) -> StepFunction[Any]:
    """Return the step function that asks a language model for the next step.

    Args:
        model: loaded with a subclass of `Step` as its answer, such as `TextStep`.
        render: makes the prompt of the problem and the steps so far; None: both are told.
    """

    async def step(problem: Any, steps: Sequence[Step]) -> Step:
        return await model.ask((render or _prompt)(problem, steps))

    return step


def _prompt(problem: Any, steps: Sequence[Step]) -> str:
    made = [f"{number}. {step.model_dump_json()}" for number, step in enumerate(steps, 1)]
    told = "\n".join(made) or "none"
    return f"The problem:\n{problem}\n\nThe steps so far:\n{told}\n\nMake the next step."


def _checked(made: object) -> Step:
    if not isinstance(made, Step):
        raise PayloadError(f"A step of a solver returned {type(made).__name__}: it returns a Step.")
    return made


class ProblemSolver(Agent):
    """Solves problems step by step: as an action, or goals that are published.

    Nothing is shared between two of them, be it at one instance: all that is known of a problem is
    in its steps. What `step` raises goes to the caller, or fails the run. A solver whose host dies
    begins a goal of a durable run anew; a caller of `solve` gets `HostDied`.

    Attributes:
        goal: the event class whose goals it pursues; the goal's id chooses the instance. None: it
            has the action `solve` only.
        max_steps: for one problem.
        time_limit_s: for one problem, in seconds; None: no limit.
    """

    options = AgentOptions(concurrency=None)
    goal: ClassVar[type[Goal] | None] = None
    max_steps: ClassVar[int] = 10
    time_limit_s: ClassVar[float | None] = 300.0
    _pursue: ClassVar[Any] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if declares_nothing(cls):
            super().__init_subclass__(**kwargs)
            return
        if cls.step is ProblemSolver.step:
            raise ConfigurationError(
                f"{cls.__name__} makes no steps: write `async def step(self, problem, steps)`."
            )
        if cls.max_steps < 1:
            raise ConfigurationError(f"{cls.__name__}.max_steps must be 1 or more.")
        if cls.goal is not None:
            cls._pursue = on(cls.goal, key="field:goal_id")(_pursuing_method())
        super().__init_subclass__(**kwargs)

    async def step(self, problem: Any, steps: Sequence[Step]) -> Step:
        """Make the next step.

        Args:
            problem: as it was given.
            steps: all that were made for it.
        """
        raise NotImplementedError

    def ended(self, solution: Solution) -> Event:
        """Return the event for a goal that has ended; a `TerminateEvent` is the run's result."""
        return GoalEnded(goal_id=solution.goal, solution=solution)

    @action
    async def solve(self, problem: Any) -> Solution:
        """Solve a problem; its goal's id is the agent's key."""
        return await self._solve(problem, self.id.key)

    async def _solve(self, problem: Any, goal: str) -> Solution:
        context = self.context

        async def step(problem: Any, steps: tuple[Step, ...]) -> Step:
            made = await self.step(problem, steps)
            context.progress("step", current=len(steps) + 1, total=self.max_steps)
            return made

        return await solve(
            problem, step, max_steps=self.max_steps, timeout=self.time_limit_s, goal=goal
        )


def _pursuing_method() -> Callable[..., Any]:
    async def _pursue(self: ProblemSolver, goal: Goal) -> Event:
        solution = await self._solve(goal.problem, goal.goal_id)  # pyright: ignore[reportPrivateUsage] # its own method
        return self.ended(solution)

    return _pursue
