"""Budgets of runs: what is counted, where, and how a run ends that has used too much."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    Answered,
    App,
    Ask,
    Budget,
    Event,
    Prompt,
    action,
    on,
)
from agentray.core.budgets import exceeded
from agentray.errors import ConfigurationError
from agentray.event_run import DurabilityName
from agentray.protocol.budgets import Usage
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.run_budget import Account
from agentray.testing import LocalRuntime
from agentray.testing import run as run_in_virtual_time
from tests.support.eventually import eventually_async
from tests.support.virtual_time import in_virtual_time

story: list[str] = []


@pytest.fixture(autouse=True)
def _new_story() -> None:
    story.clear()


@pytest.fixture(params=["run", "step"])
def durability(request: pytest.FixtureRequest) -> PromptDurability:
    """Whatever survives the death of a host."""
    return request.param


class Spender(Agent):
    """Spends ten tokens for each word, and says how far it came."""

    @on(Prompt)
    async def spend(self, prompt: Prompt) -> str:
        for word in prompt.text.split():
            self.context.spend(tokens=10, tool_calls=1, cost=0.25)
            await asyncio.sleep(0.01)
            story.append(word)
        return "done"


class Thrifty(Agent):
    options = AgentOptions(budget=Budget(tokens=15, tool_calls=9))

    @on(Prompt)
    async def spend(self, prompt: Prompt) -> str:
        for _ in prompt.text.split():
            self.context.spend(tokens=10)
            await asyncio.sleep(0.01)
        return "done"


class Worker(Agent):
    @on(Prompt)
    async def work(self, prompt: Prompt) -> str:
        story.append("working")
        self.context.spend(tokens=7)
        await asyncio.sleep(float(prompt.text))
        return "done"


class Hasty(Agent):
    """Waits for nothing after it has spent."""

    @on(Prompt)
    async def spend(self, prompt: Prompt) -> str:
        self.context.spend(tokens=int(prompt.text))
        return "done"


class Asker(Agent):
    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Ask:
        self.context.spend(tokens=6)
        return Ask(question=prompt.text)

    @on(Answered)
    async def go_on(self, answered: Answered) -> str:
        self.context.spend(tokens=answered.value)
        await asyncio.sleep(0.01)
        return "done"


class Shared(Event):
    part: int


class Sharer(Agent):
    """Its subscribers live on all hosts."""

    @on(Prompt)
    async def share(self, prompt: Prompt) -> list[Shared]:
        return [Shared(part=n) for n in range(int(prompt.text))]


class Part(Agent):
    @on(Shared, key="field:part")
    async def take(self, shared: Shared) -> None:
        await self.handle(Tool, str(shared.part)).use()
        await asyncio.sleep(0.01)
        story.append("part")


class Tool(Agent):
    @action
    def use(self) -> None:
        self.context.spend(tokens=1, tool_calls=1)


APP = App("spending", [Spender, Thrifty, Worker, Hasty, Asker, Sharer, Part, Tool])


def why(run: Run) -> str:
    assert run.status is RunStatus.BUDGET_EXCEEDED
    assert run.error is not None
    assert run.error.type == "BudgetExceeded"
    return run.error.message


@pytest.mark.parametrize(
    ("budget", "told", "came"),
    [
        (Budget(tokens=20), "Its budget of 20 tokens is exceeded: it used 30.", ["a", "b"]),
        (Budget(tool_calls=1), "Its budget of 1 tool calls is exceeded: it used 2.", ["a"]),
        (Budget(cost=0.5), "Its budget of cost 0.5 is exceeded: it used 0.75.", ["a", "b"]),
    ],
)
@in_virtual_time
async def test_a_run_is_stopped_in_the_midst_of_its_work_when_its_budget_is_exceeded(
    budget: Budget, told: str, came: list[str], durability: PromptDurability
):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt(
            "a b c d e", agent="spender/x", budget=budget, durability=durability
        )
        assert why(run) == told
        assert story == came
        assert run.result is None


@in_virtual_time
async def test_what_is_within_the_budget_is_counted_and_shown(durability: PromptDurability):
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        run = await manager.prompt(
            "a b", agent="spender/x", budget=Budget(tokens=20, wall_s=60), durability=durability
        )
        assert run.status is RunStatus.SUCCEEDED
        assert run.usage is not None
        assert (run.usage.tokens, run.usage.tool_calls, run.usage.cost) == (20, 2, 0.5)
        assert 0 < run.usage.wall_s < 60
        stored = await runtime.store.get_run(run.id)
        assert stored is not None
        assert stored.run == run
        last = (await runtime.store.run_events(run.id))[-1]
        assert last.data["usage"]["tokens"] == 20


@in_virtual_time
async def test_a_run_without_budget_that_spends_nothing_has_no_usage():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt("", agent="spender/x")
        assert run.usage is None
        assert "usage" not in run.model_dump(mode="json")


@in_virtual_time
async def test_time_of_work_is_a_budget(durability: PromptDurability):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt(
            "1000", agent="worker/x", budget=Budget(wall_s=0.2), durability=durability
        )
        assert "0.2 s of work is used up" in why(run)
        assert run.usage is not None
        assert run.usage.wall_s >= 0.2


@pytest.mark.parametrize("seconds", [0.1, 0.7, 3.3, 5.0, 17.9])
def test_time_of_work_ends_also_where_a_timer_rings_a_moment_too_early(
    durability: PromptDurability, seconds: float
):
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            for _ in range(5):  # each at another time, which is rounded in another way
                run = await manager.prompt(
                    "1000", agent="worker/x", budget=Budget(wall_s=seconds), durability=durability
                )
                assert "of work is used up" in why(run)
                assert run.usage is not None
                assert seconds <= run.usage.wall_s < seconds + 1

    run_in_virtual_time(scenario())


@in_virtual_time
async def test_a_handler_that_waits_for_nothing_after_it_spent_too_much_leaves_its_host_well(
    durability: PromptDurability,
):
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(APP)
        budget = Budget(tokens=10)
        runs = await asyncio.wait_for(
            asyncio.gather(
                *(
                    manager.prompt(text, agent="hasty/x", budget=budget, durability=durability)
                    for text in ("20", "1", "20", "2")
                )
            ),
            30,
        )
        assert [run.status for run in runs[1::2]] == [RunStatus.SUCCEEDED] * 2
        for number in range(8):
            prompt = manager.prompt("0", agent=f"worker/{number}", durability=durability)
            assert (await asyncio.wait_for(prompt, 30)).status is RunStatus.SUCCEEDED


@in_virtual_time
async def test_an_agent_type_has_a_budget_for_prompts_that_say_none(durability: PromptDurability):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        assert "15 tokens" in why(
            await manager.prompt("a b c", agent="thrifty/x", durability=durability)
        )
        more = await manager.prompt(
            "a b c", agent="thrifty/x", budget=Budget(tokens=30), durability=durability
        )
        assert more.status is RunStatus.SUCCEEDED
        other = await manager.prompt(
            "a b c", agent="thrifty/x", budget=Budget(cost=1), durability=durability
        )
        assert "15 tokens" in why(other), "what it does not limit the type's own budget does"


@in_virtual_time
async def test_what_is_spent_on_other_hosts_counts_too(durability: PromptDurability):
    async with LocalRuntime(hosts=3) as manager:
        await manager.deploy(APP)
        run = await manager.prompt(
            "30", agent="sharer/x", budget=Budget(tokens=100), durability=durability
        )
        assert run.status is RunStatus.SUCCEEDED
        assert run.usage is not None
        assert (run.usage.tokens, run.usage.tool_calls) == (30, 30)
        assert "20 tool calls" in why(
            await manager.prompt(
                "30", agent="sharer/x", budget=Budget(tool_calls=20), durability=durability
            )
        )


@in_virtual_time
async def test_a_new_attempt_does_not_start_from_nothing():
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        budget = Budget(tokens=13)
        asking = asyncio.create_task(manager.prompt("1000", agent="worker/a", budget=budget))

        async def kept() -> bool:
            runs = await runtime.store.list_runs()
            return bool(runs and runs[0].usage and runs[0].usage.tokens == 7)

        await eventually_async(kept)
        where = runtime.host_of(AgentId("worker", "a"))
        assert where is not None
        await runtime.kill_host(where)
        run = await asyncio.wait_for(asking, 30)
        assert "13 tokens is exceeded: it used 14" in why(run)
        assert run.attempt >= 2


@in_virtual_time
async def test_usage_goes_on_after_an_answer_and_waiting_costs_no_time(
    durability: PromptDurability,
):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        budget = Budget(tokens=10, wall_s=30)
        asked = await manager.prompt("Sure?", agent="asker/a", budget=budget, durability=durability)
        assert asked.usage is not None
        assert asked.usage.tokens == 6
        good = await manager.answer(asked.id, 4, timeout=20)
        assert good.status is RunStatus.SUCCEEDED
        assert good.usage is not None
        assert good.usage.tokens == 10
        asked = await manager.prompt("Sure?", agent="asker/a", budget=budget, durability=durability)
        assert "used 11" in why(await manager.answer(asked.id, 5, timeout=20))


@in_virtual_time
async def test_a_dispatched_event_has_a_budget_also_where_it_is_not_kept():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        kept: DurabilityName
        for kept in ("run", "step", "none"):
            run = await manager.dispatch(
                Shared(part=1), durability=kept, budget=Budget(tokens=0), events=False
            )
            assert "0 tokens is exceeded" in why(await run.wait(20))


async def test_budgets_that_are_none_are_refused():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        with pytest.raises(ConfigurationError, match="budget"):
            await manager.prompt("a", budget={"tokens": 1})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigurationError, match="max_attempts"):
            await manager.prompt("a", max_attempts=0)
        with pytest.raises(ValueError, match="tokens"):
            Budget(tokens=-1)


@in_virtual_time
async def test_the_number_of_attempts_is_an_option_and_each_loss_has_its_reason():
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        asking = asyncio.create_task(manager.prompt("1000", agent="worker/a", max_attempts=2))
        for attempt in (1, 2):

            async def running(wanted: int = attempt) -> bool:
                runs = await runtime.store.list_runs()
                return bool(
                    runs and runs[0].status is RunStatus.RUNNING and runs[0].attempt == wanted
                )

            await eventually_async(running)
            where = runtime.host_of(AgentId("worker", "a"))
            assert where is not None
            await runtime.kill_host(where)
        run = await asyncio.wait_for(asking, 30)
        assert (run.status, run.attempt) == (RunStatus.DEAD, 2)
        told = await runtime.store.run_events(run.id)
        lost = [event.data for event in told if event.kind == "attempt_lost"]
        assert [each["attempt"] for each in lost] == [1, 2]
        assert all("was lost: It was killed" in each["reason"] for each in lost)
        assert run.error is not None
        assert "It was killed" in run.error.message
        assert [event.offset for event in told] == list(range(len(told)))


# Decisions

limits = st.none() | st.integers(0, 20)
amounts = st.integers(0, 20)


@given(limits, limits, amounts, amounts)
def test_a_budget_is_exceeded_beyond_its_limit_and_not_at_it(
    tokens: int | None, tool_calls: int | None, used: int, called: int
):
    budget = Budget(tokens=tokens, tool_calls=tool_calls)
    beyond = (tokens is not None and used > tokens) or (
        tool_calls is not None and called > tool_calls
    )
    assert (exceeded(budget, Usage(tokens=used, tool_calls=called)) is not None) == beyond


@given(st.lists(amounts), st.floats(0, 100), st.floats(0, 100))
def test_an_account_adds_up_over_attempts(spent: list[int], first_s: float, second_s: float):
    first = Account(Budget(tokens=1000), None)
    first.begin(10.0)
    for tokens in spent:
        first.spend(Usage(tokens=tokens))
    first.end(10.0 + first_s)
    before = first.usage(999.0)
    second = Account(first.budget, before)
    second.begin(5000.0)
    second.spend(Usage(tokens=1))
    after = second.usage(5000.0 + second_s)
    assert before is not None
    assert after is not None
    assert (before.tokens, after.tokens) == (sum(spent), sum(spent) + 1)
    assert after.wall_s == pytest.approx(first_s + second_s, abs=1e-6)
