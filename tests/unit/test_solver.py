"""Solving step by step: how it ends, that nothing is shared, and what steps do wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from agentray import (
    Agent,
    AgentId,
    App,
    ConfigurationError,
    Event,
    HostDied,
    PayloadError,
    Prompt,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.patterns import (
    Goal,
    GoalEnded,
    LanguageModel,
    ProblemSolver,
    Solution,
    SolutionStatus,
    Step,
    StepStatus,
    TextStep,
    asking,
    solve,
)
from agentray.testing import LocalRuntime, ManualClock, run

CONTINUE, DONE, FAILED = StepStatus


async def count_up(problem: int, steps: Sequence[Step]) -> Step:
    """Count to the problem."""
    await asyncio.sleep(1)
    number = len(steps) + 1
    return Step(status=DONE if number == problem else CONTINUE, answer=number, notes=f"{number}!")


def test_steps_are_made_until_one_is_done() -> None:
    async def test() -> None:
        solution = await solve(3, count_up, goal="g")
        assert (solution.goal, solution.problem) == ("g", 3)
        assert (solution.status, solution.answer) == (SolutionStatus.DONE, 3)
        assert [step.notes for step in solution.steps] == ["1!", "2!", "3!"]

    run(test())


def test_it_ends_without_an_answer_when_there_are_no_more_steps_or_no_more_time() -> None:
    async def test() -> None:
        solution = await solve(5, count_up, max_steps=2)
        assert (solution.status, solution.answer) == (SolutionStatus.OUT_OF_STEPS, None)
        assert len(solution.steps) == 2
        began = asyncio.get_running_loop().time()
        solution = await solve(100, count_up, max_steps=100, timeout=3.5)
        assert (solution.status, solution.answer) == (SolutionStatus.OUT_OF_TIME, None)
        assert len(solution.steps) == 3
        assert round(asyncio.get_running_loop().time() - began, 3) == 3.5

    run(test())


def test_a_step_that_failed_says_why() -> None:
    def give_up(_: str, steps: Sequence[Step]) -> Step:
        return Step(status=FAILED if steps else CONTINUE, answer="no data")

    async def test() -> None:
        solution = await solve("?", give_up)
        assert (solution.status, solution.answer) == (SolutionStatus.FAILED, "no data")

    run(test())


@pytest.mark.parametrize("text", ["abandoned", "I am done", "DONE", "it failed", "fail"])
def test_words_in_texts_say_nothing(text: str) -> None:
    async def step(_: str, _steps: Sequence[Step]) -> Step:
        return Step(status=CONTINUE, notes=text, answer=text)

    async def test() -> None:
        assert (await solve(text, step, max_steps=3)).status is SolutionStatus.OUT_OF_STEPS

    run(test())


def test_done_needs_an_answer_and_the_status_one_of_three() -> None:
    with pytest.raises(ValidationError, match="has an answer"):
        Step(status=DONE)
    with pytest.raises(ValidationError, match="has an answer"):
        TextStep(status=DONE)
    with pytest.raises(ValidationError, match="continue"):
        Step.model_validate({"status": "abandoned"})


def test_errors_of_steps_and_nonsense_are_raised() -> None:
    async def raising(_: str, _steps: Sequence[Step]) -> Step:
        raise TimeoutError("its own")

    async def nonsense(_: str, _steps: Sequence[Step]) -> Any:
        return "done"

    async def test() -> None:
        with pytest.raises(TimeoutError, match="its own"):
            await solve("?", raising)
        with pytest.raises(PayloadError, match="returned str"):
            await solve("?", nonsense)

    run(test())


# Language models


def test_a_language_model_makes_the_steps() -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    prompts: list[str] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        prompts.append(str(messages[-1].parts[-1].content))  # type: ignore[union-attr]
        done = len(prompts) == 2
        step = {"status": "done" if done else "continue", "notes": f"look {len(prompts)}"}
        step |= {"answer": "42"} if done else {}
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, step)])

    async def test() -> None:
        agent = pydantic_ai.Agent(FunctionModel(answer), output_type=TextStep)
        model = LanguageModel[TextStep]("double", agent, 10.0)
        await model.open()
        solution = await solve("six times seven", asking(model))
        await model.close()
        assert (solution.status, solution.answer) == (SolutionStatus.DONE, "42")
        assert isinstance(solution.steps[0], TextStep)
        assert "six times seven" in prompts[1]
        assert "look 1" not in prompts[0]
        assert "look 1" in prompts[1]

    asyncio.run(test())


# As agents


class Wanted(Goal):
    pass


class Answered(TerminateEvent):
    goal_id: str
    status: str
    answer: Any
    steps: int


class CountStep(Step):
    said: str


class Counter(ProblemSolver):
    """Counts to a number that its problem names: `3`; says what its problem says."""

    goal = Wanted
    max_steps = 50
    time_limit_s = 100.0
    begun: ClassVar[int] = 0

    async def step(self, problem: Any, steps: Sequence[Step]) -> Step:
        type(self).begun += not steps
        await asyncio.sleep(1)
        match problem:
            case "raise":
                raise ValueError("cannot count")
            case "nonsense":
                return "42"  # type: ignore[return-value]
            case "hang":
                await asyncio.Event().wait()
            case _:
                pass
        said = [step.said for step in steps if isinstance(step, CountStep)]
        assert said == [str(problem)] * len(steps)  # of this very problem
        done = len(steps) + 1 == int(problem)
        return CountStep(status=DONE if done else CONTINUE, answer=len(steps) + 1, said=problem)

    def ended(self, solution: Solution) -> Event:
        return Answered(
            goal_id=solution.goal,
            status=solution.status,
            answer=solution.answer,
            steps=len(solution.steps),
        )


class Asker(Agent):
    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Wanted:
        return Wanted(problem=prompt.text, goal_id=f"goal {prompt.text}")


class Other(ProblemSolver):
    """Another solver: it pursues no goals, and so none of the first one's."""

    async def step(self, problem: Any, steps: Sequence[Step]) -> Step:
        return Step(status=DONE, answer=f"{problem} at {self.id.key}", notes=str(len(steps)))


APP = App("solvers", [Asker, Counter, Other], entry=Asker)


def test_many_at_once_share_nothing_be_it_at_one_instance() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(APP)
            one = manager.handle(Counter, "one")
            began = asyncio.get_running_loop().time()
            solutions = await asyncio.gather(*(one.solve(str(1 + n % 9)) for n in range(90)))
            assert [solution.answer for solution in solutions] == [1 + n % 9 for n in range(90)]
            assert {solution.goal for solution in solutions} == {"one"}
            assert round(asyncio.get_running_loop().time() - began) == 9  # not one after the other
            assert (await manager.handle(Other, "o").solve("x")).answer == "x at o"

    run(test())


def test_goals_are_pursued_and_their_results_say_whose_they_are() -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(APP)
            runs = await asyncio.gather(*(manager.prompt(str(n)) for n in range(1, 8)))
            assert [done.result for done in runs] == [
                {"goal_id": f"goal {n}", "status": "done", "answer": n, "steps": n}
                for n in range(1, 8)
            ]
            done = await manager.prompt("hang")
            assert done.result == {
                "goal_id": "goal hang",
                "status": "out_of_time",
                "answer": None,
                "steps": 0,
            }

    run(test())


@pytest.mark.parametrize(
    ("problem", "kind"), [("raise", "ValueError"), ("nonsense", "PayloadError")]
)
def test_a_step_that_goes_wrong_fails_its_run(problem: str, kind: str) -> None:
    async def test() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(APP)
            done = await manager.prompt(problem)
            assert done.status is RunStatus.FAILED
            assert done.error is not None
            assert (done.error.type, done.error.agent) == (kind, f"counter/goal {problem}")
            with pytest.raises((ValueError, PayloadError)):
                await manager.handle(Counter, "c").solve(problem)

    run(test())


def test_when_its_host_dies_a_run_begins_the_goal_anew_and_a_caller_hears_of_it() -> None:
    async def test() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(APP)
            Counter.begun = 0
            solver = AgentId("counter", "goal 9")
            call = asyncio.create_task(manager.handle(Counter, "goal 9").solve("9"))
            prompt = asyncio.create_task(manager.prompt("9"))
            await ManualClock().advance(3.5)
            victim = runtime.host_of(solver)
            assert victim is not None
            await runtime.kill_host(victim)
            with pytest.raises(HostDied):
                await call
            done = await prompt
            assert (done.status, done.result["answer"]) == (RunStatus.SUCCEEDED, 9)
            assert Counter.begun >= 3  # once more for each move of its slot

    run(test())


def test_a_solver_without_results_of_its_own_publishes_what_ended() -> None:
    event = Other().ended(Solution(goal="g", problem="p", status=SolutionStatus.DONE, answer=1))
    assert isinstance(event, GoalEnded)
    assert (event.goal_id, event.solution.answer) == ("g", 1)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [({"max_steps": 3}, "no steps"), ({"step": count_up, "max_steps": 0}, "max_steps")],
)
def test_a_solver_is_checked_where_it_is_defined(members: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        type("Wrong", (ProblemSolver,), members)
