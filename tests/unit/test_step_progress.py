"""Runs that are durable per step: what they use and ask, while hosts die and reports are lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentId,
    Answered,
    App,
    Ask,
    Budget,
    Event,
    EventRun,
    Prompt,
    TerminateEvent,
    on,
)
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.step_reports import StepReports
from agentray.testing import LocalRuntime
from agentray.testing import run as run_virtual
from tests.support.eventually import eventually_async


class Count(BaseModel):
    asked: int = 0
    answered: int = 0


class Wanted(Event):
    item: str


class Checked(Event):
    item: str


class Bought(TerminateEvent):
    item: str
    price: int


class Shopper(Agent):
    @on(Wanted, key="field:item")
    async def check(self, wanted: Wanted) -> Checked:
        return Checked(item=wanted.item)


class Clerk(Agent):
    """Asks what it may spend, on another host than the run's own, most likely."""

    state: Count

    @on(Checked, key="field:item")
    async def ask(self, checked: Checked) -> Ask:
        self.context.spend(tokens=3)
        self.state.asked += 1
        return Ask(question="How much?", answer=int, details=checked.item)

    @on(Answered)
    async def buy(self, answered: Answered) -> Bought:
        self.context.spend(tokens=4)
        self.state.answered += 1
        await asyncio.sleep(0)
        return Bought(item=str(answered.details), price=int(answered.value))


class Burn(Event):
    """Is handled at different agents, each of which spends for ever."""

    fires: int = 0
    fire: int = 0


class Burner(Agent):
    @on(Prompt)
    async def light(self, prompt: Prompt) -> list[Burn]:
        return [Burn(fire=n) for n in range(int(prompt.text))]


class Fire(Agent):
    @on(Burn, key="field:fire")
    async def burn(self, burn: Burn) -> None:
        BURNING.add(burn.fire)
        try:
            while True:
                self.context.spend(tokens=1)
                await asyncio.sleep(0.01)
        finally:
            BURNING.discard(burn.fire)


class Sip(Event):
    number: int


class Drinker(Agent):
    """Its runs end by the commit of a step, while other agents of theirs do nothing."""

    @on(Prompt)
    async def pour(self, prompt: Prompt) -> list[Sip]:
        return [Sip(number=n) for n in range(int(prompt.text))]


class Cup(Agent):
    @on(Sip, key="field:number")
    async def drink(self, sip: Sip) -> None:
        if sip.number == 0:
            self.context.spend(tokens=100)
            return
        WAITING.add(sip.number)
        try:
            await asyncio.Event().wait()
        finally:
            WAITING.discard(sip.number)


BURNING: set[int] = set()
WAITING: set[int] = set()
APP = App("counting", [Shopper, Clerk, Burner, Fire, Drinker, Cup])


async def asks(run: EventRun) -> bool:
    """Whether a run waits for an answer."""
    return run.question is not None


async def kept(runtime: LocalRuntime, run_id: str) -> Run:
    """A run as the Store has it."""
    stored = await runtime.store.get_run(run_id)
    assert stored is not None
    return stored.run


@pytest.mark.parametrize("seed", range(3))
async def test_questions_and_usage_are_exact_whichever_hosts_die(seed: int):
    chance = random.Random(seed)
    items = [f"tea-{n}" for n in range(8)]
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(APP)

        async def two() -> bool:
            return len(runtime.hosts) > 1

        async def kill() -> None:
            for _ in range(3):
                for _ in range(chance.randint(0, 40)):
                    await asyncio.sleep(0)
                await runtime.kill_host(chance.choice(runtime.hosts))
                await eventually_async(two, timeout_s=30)

        async def buy(item: str, price: int) -> Run:
            run = await manager.dispatch(Wanted(item=item), durability="step")
            await eventually_async(lambda: asks(run), timeout_s=30)
            return await manager.answer(run.id, price, timeout=60)

        killing = asyncio.create_task(kill())
        ended = await asyncio.gather(*(buy(item, n) for n, item in enumerate(items)))
        await killing
        for price, (item, run) in enumerate(zip(items, ended, strict=True)):
            assert (run.status, run.result) == (
                RunStatus.SUCCEEDED,
                {"item": item, "price": price},
            )
            assert run.usage is not None
            assert run.usage.tokens == 7
            # Its time is written by the host that looks after it, which may hear of the end last.
            stored = (await kept(runtime, run.id)).usage
            assert stored is not None
            assert stored.model_copy(update={"wall_s": run.usage.wall_s}) == run.usage
        states = await runtime.store.load_states([AgentId("clerk", item) for item in items])
        assert [states[agent].state for agent in states] == [{"asked": 1, "answered": 1}] * 8


def test_a_run_waits_and_goes_on_although_no_host_hears_of_it(monkeypatch: pytest.MonkeyPatch):
    def lose(*_: Any) -> None:
        """Nothing that steps came to is told to another host."""

    monkeypatch.setattr(StepReports, "_post", lose)

    async def story() -> None:
        async with (runtime := LocalRuntime(hosts=3)) as manager:
            await manager.deploy(APP)
            runs = [
                await manager.dispatch(Wanted(item=f"tea-{n}"), durability="step") for n in range(6)
            ]
            for run in runs:

                async def waits(run_id: str = run.id) -> bool:
                    return (await kept(runtime, run_id)).status is RunStatus.WAITING

                await eventually_async(waits, timeout_s=60)
                await manager.answer(run.id, 5)  # its own host works on it yet, as it believes
            for run in runs:
                ended = await run.wait(120)
                assert ended is not None
                assert (ended.status, ended.usage and ended.usage.tokens) == (
                    RunStatus.SUCCEEDED,
                    7,
                )

    run_virtual(story())


async def burn(manager: ManagerClient, fires: int, budget: Budget) -> Run:
    """Light fires; return how that ends."""
    asking = manager.prompt(
        str(fires), agent="burner/x", durability="step", budget=budget, timeout=30
    )
    run = await asyncio.wait_for(asking, 30)
    assert run.status is RunStatus.BUDGET_EXCEEDED
    assert run.error is not None
    assert run.error.type == "BudgetExceeded"
    return run


async def test_handlers_that_spend_for_ever_are_stopped_in_the_midst_of_it():
    BURNING.clear()
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(APP)
        run = await burn(manager, 4, Budget(tokens=50))
        assert run.error is not None
        assert not BURNING, "all of them have ended"
        assert run.usage is not None
        assert run.usage.tokens > 50, "what the stopped ones had used counts"
        assert f"it used {run.usage.tokens}." in run.error.message
        assert (await kept(runtime, run.id)).usage == run.usage
        assert not await runtime.store.load_messages(["fire"], range(256))


async def test_what_is_under_way_is_cancelled_when_a_commit_exceeds_the_budget():
    WAITING.clear()
    async with LocalRuntime(hosts=3) as manager:
        await manager.deploy(APP)
        run = await manager.prompt(
            "6", agent="drinker/x", durability="step", budget=Budget(tokens=99), timeout=30
        )
        assert run.status is RunStatus.BUDGET_EXCEEDED
        assert run.usage is not None
        assert run.usage.tokens == 100

        async def nobody_waits() -> bool:
            return not WAITING

        await eventually_async(nobody_waits, timeout_s=10)


async def test_a_budget_of_time_goes_on_where_another_host_takes_over():
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(APP)
        asking = asyncio.create_task(
            manager.prompt("1", agent="burner/a", durability="step", budget=Budget(wall_s=2))
        )

        async def worked() -> bool:
            runs = await runtime.store.list_runs()
            return bool(runs and runs[0].usage and runs[0].usage.wall_s > 0)

        await eventually_async(worked)
        where = runtime.host_of(AgentId("burner", "a"))
        assert where is not None
        await runtime.kill_host(where)
        run = await asyncio.wait_for(asking, 30)
        assert run.status is RunStatus.BUDGET_EXCEEDED
        assert run.error is not None
        assert "2 s of work is used up" in run.error.message


def test_usage_is_told_in_whatever_order():
    from agentray.protocol.budgets import Usage
    from agentray.runtime.step_budget import StepAccount

    chance = random.Random(1)
    for _ in range(200):
        account = StepAccount(Budget(tokens=1000), None)
        told: list[tuple[Usage | None, dict[int, Usage | None]]] = []
        total = Usage()
        used: Counter[int] = Counter()
        for number in range(6):
            for _ in range(chance.randint(1, 3)):
                used[number] += 1
                told.append((None, {number: Usage(tokens=used[number])}))
            if number % 2:
                total = total.plus(Usage(tokens=used[number]))
                told.append((total, {number: None}))
        # What one message has used comes in its order, the rest in any.
        chance.shuffle(told)
        latest: dict[int, int] = {}
        for committed, messages in told:
            account.note(committed, messages)
            latest |= {n: u.tokens for n, u in messages.items() if u is not None}
        left = sum(tokens for number, tokens in latest.items() if not number % 2)
        assert account.usage(0.0) == total
        assert sum(u.tokens for u in account.under_way.values()) == left
