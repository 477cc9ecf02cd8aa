"""Runs that ask a person: they wait in the Store and nowhere else, and go on with the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentId, Answered, App, Ask, Event, Prompt, TerminateEvent, action, on
from agentray.errors import AnswerInvalid, NotWaiting, RunFailed, UnknownRun
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import Run, RunStatus
from agentray.testing import LocalRuntime, ManualClock
from agentray.testing import run as run_in_virtual_time
from tests.support.eventually import eventually_async

story: list[str] = []


@pytest.fixture(autouse=True)
def _new_story() -> None:
    story.clear()


@pytest.fixture(params=["run", "step"])
def durability(request: pytest.FixtureRequest) -> PromptDurability:
    """Whatever survives the death of a host."""
    return request.param


class Paid(BaseModel):
    orders: int = 0


class Approval(BaseModel):
    approved: bool
    amount: int = 0


class Buyer(Agent):
    """Asks before it buys."""

    state: Paid

    @on(Prompt)
    async def buy(self, prompt: Prompt) -> Ask | str:
        story.append(f"asked for {prompt.text}")
        if prompt.text == "nothing":
            return "nothing to buy"
        self.state.orders += 1
        return Ask(question=f"Buy {prompt.text}?", answer=Approval, details={"what": prompt.text})

    @on(Answered)
    async def go_on(self, answered: Answered) -> str:
        story.append("answered")
        approval = Approval.model_validate(answered.value)
        if not approval.approved:
            raise ValueError("refused")
        return f"{answered.details['what']} for {approval.amount}, order {self.state.orders}"


class Twice(Agent):
    @on(Prompt)
    async def ask(self, prompt: Prompt) -> list[Ask]:
        del prompt
        return [Ask(question="First?"), Ask(question="Second?")]

    @on(Answered)
    async def go_on(self, answered: Answered) -> str | None:
        story.append(f"{answered.question} {answered.value}")
        return "done" if answered.question == "Second?" else None


class Slow(Agent):
    """Is long about its answer."""

    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Ask:
        return Ask(question=prompt.text)

    @on(Answered)
    async def go_on(self, answered: Answered) -> str:
        story.append("going on")
        await asyncio.sleep(float(answered.value))
        return "slept"


class Deaf(Agent):
    @on(Prompt)
    async def ask(self, prompt: Prompt) -> Ask:
        return Ask(question=prompt.text)

    @action
    def ask_anyway(self) -> None:
        self.context.publish(Ask(question="Anybody?"))


class Order(Event):
    item: str


class Checked(Event):
    item: str


class Done(TerminateEvent):
    item: str


class Checker(Agent):
    @on(Order)
    async def check(self, order: Order) -> Checked:
        return Checked(item=order.item)


class Clerk(Agent):
    """Asks in the middle of a run of events."""

    @on(Checked)
    async def ask(self, checked: Checked) -> Ask:
        return Ask(question=f"Order {checked.item}?", answer=bool, details=checked.item)

    @on(Answered)
    async def order(self, answered: Answered) -> Done:
        return Done(item=f"{answered.details} {answered.value}")


APP = App("asking", [Buyer, Twice, Slow, Deaf, Checker, Clerk])
YES = {"approved": True, "amount": 3}


async def kinds(runtime: LocalRuntime, run_id: str) -> list[str]:
    told = await runtime.store.run_events(run_id)
    assert [event.offset for event in told] == list(range(len(told)))
    return [event.kind for event in told]


async def test_a_run_waits_for_an_answer_and_ends_with_what_follows_it(
    durability: PromptDurability,
):
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a", durability=durability)
        assert (asked.status, asked.result, asked.finished_at) == (RunStatus.WAITING, None, None)
        assert asked.question is not None
        assert (asked.question.question, asked.question.agent) == ("Buy tea?", "buyer/a")
        assert asked.question.details == {"what": "tea"}

        ended = await manager.answer(asked.id, YES, timeout=20)

        assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, "tea for 3, order 1")
        assert (ended.id, ended.attempt, ended.question) == (asked.id, 1, None)
        assert story == ["asked for tea", "answered"]
        assert await kinds(runtime, asked.id) == [
            "queued", "started", "waiting", "answered", "resumed", "succeeded",
        ]  # fmt: skip


async def test_a_run_that_asks_nothing_does_not_wait():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt("nothing", agent="buyer/a")
        assert (run.status, run.result) == (RunStatus.SUCCEEDED, "nothing to buy")


async def test_nothing_of_a_waiting_run_is_kept_in_memory_and_it_survives_everything(
    durability: PromptDurability,
):
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a", durability=durability)

        async def nothing_runs() -> bool:
            hosts = [runtime.network.hosts[host] for host in runtime.hosts]
            return [(await host.heartbeat())["runs"] for host in hosts] == [0, 0]

        await eventually_async(nothing_runs)
        for host in list(runtime.hosts):
            await runtime.kill_host(host)
        await runtime.restart_manager()

        ended = await manager.answer(asked.id, YES, timeout=30)
        assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, "tea for 3, order 1")
        assert story == ["asked for tea", "answered"], "the state that it asked with was kept"


async def test_an_answer_that_is_something_else_is_refused_and_names_the_field():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a")
        for wrong, field in (({"approved": "no"}, "answer.approved"), ("yes", "answer")):
            with pytest.raises(AnswerInvalid) as refused:
                await manager.answer(asked.id, wrong)
            assert refused.value.field == field
        assert (await manager.answer(asked.id, YES, timeout=20)).status is RunStatus.SUCCEEDED


async def test_an_answer_is_taken_once_and_may_be_repeated(durability: PromptDurability):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a", durability=durability)
        assert asked.question is not None
        question = asked.question.id
        ended = await manager.answer(asked.id, YES, question=question, timeout=20)

        assert await manager.answer(asked.id, YES, question=question) == ended
        assert story.count("answered") == 1
        with pytest.raises(NotWaiting, match="before"):
            await manager.answer(asked.id, {"approved": False}, question=question)
        with pytest.raises(NotWaiting):
            await manager.answer(asked.id, YES)
        with pytest.raises(UnknownRun):
            await manager.answer("run_0", YES)


async def test_of_several_questions_the_next_is_asked_when_the_first_is_answered(
    durability: PromptDurability,
):
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("x", agent="twice/a", durability=durability)
        assert asked.question is not None
        assert asked.question.question == "First?"
        again = await manager.answer(asked.id, "one", timeout=20)
        assert again.status is RunStatus.WAITING
        assert again.question is not None
        assert again.question.question == "Second?"
        with pytest.raises(NotWaiting, match="another question"):
            await manager.answer(asked.id, "x", question="qst_0")
        ended = await manager.answer(asked.id, "two", timeout=20)
        assert (ended.status, ended.result, ended.attempt) == (RunStatus.SUCCEEDED, "done", 1)
        assert story == ["First? one", "Second? two"]
        assert (await kinds(runtime, asked.id)).count("waiting") == 2


async def test_an_error_after_the_answer_fails_the_run(durability: PromptDurability):
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a", durability=durability)
        ended = await manager.answer(asked.id, {"approved": False}, timeout=20)
        assert ended.status is RunStatus.FAILED
        assert ended.error is not None
        assert (ended.error.type, ended.error.message) == ("ValueError", "refused")


async def test_a_run_that_was_answered_begins_again_at_its_answer_when_its_host_dies(
    durability: PromptDurability,
):
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("Wait?", agent="slow/a", durability=durability)
        going_on = asyncio.create_task(manager.answer(asked.id, 0.5, timeout=30))

        async def begun() -> bool:
            return "going on" in story

        await eventually_async(begun, interval_s=0.01)
        where = runtime.host_of(AgentId("slow", "a"))
        assert where is not None
        await runtime.kill_host(where)
        ended = await going_on
        assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, "slept")
        assert (ended.attempt > 1) == (durability == "run"), "the steps of a run are in one"
        assert story.count("going on") > 1, "and nobody was asked a second time"
        assert (await kinds(runtime, asked.id)).count("waiting") == 1


async def test_a_waiting_run_can_be_cancelled_and_has_a_deadline(durability: PromptDurability):
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a", durability=durability)
        cancelled = await asyncio.wait_for(manager.cancel_run(asked.id), 20)
        assert (cancelled.status, cancelled.question) == (RunStatus.CANCELLED, None)
        with pytest.raises(NotWaiting):
            await manager.answer(asked.id, YES)

        late = await manager.prompt(
            "tea", agent="buyer/a", run_timeout_s=0.3, durability=durability
        )
        assert late.status is RunStatus.WAITING

        async def ended() -> Run | None:
            stored = await runtime.store.get_run(late.id)
            assert stored is not None
            return stored.run if stored.run.finished_at else None

        run = await eventually_async(ended)
        assert run is not None
        assert run.status is RunStatus.TIMED_OUT
        assert (await kinds(runtime, late.id))[-2:] == ["waiting", "timed_out"]


async def test_the_deadline_holds_after_the_answer():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("Wait?", agent="slow/a", run_timeout_s=0.8)
        ended = await manager.answer(asked.id, 1000, timeout=20)
        assert ended.status is RunStatus.TIMED_OUT


async def test_a_run_of_an_event_waits_too_wherever_the_question_is_asked(
    durability: PromptDurability,
):
    async with LocalRuntime(hosts=2) as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Order(item="tea"), durability=durability)

        async def asks() -> Any:
            return run.question

        question = await eventually_async(asks)
        assert (run.status, question.question) == (RunStatus.WAITING, "Order tea?")
        ended = await manager.answer(run.id, True, timeout=20)
        assert (ended.status, ended.result) == (RunStatus.SUCCEEDED, {"item": "tea True"})
        assert (await run.result(Done, timeout=20)).item == "tea True"
        names = [type(event) async for event in run.events()]
        assert names == [Order, Checked, Ask, Answered, Done]


async def test_a_waiting_run_of_an_event_is_cancelled_by_who_dispatched_it():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Order(item="tea"))

        async def asks() -> Any:
            return run.question

        await eventually_async(asks)
        assert (await asyncio.wait_for(run.cancel(), 20)).status is RunStatus.CANCELLED


async def test_a_run_that_is_not_kept_cannot_wait():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.dispatch(Order(item="tea"), durability="none")
        with pytest.raises(RunFailed, match="durability='none'"):
            await run.result(timeout=20)


async def test_who_could_not_take_the_answer_may_not_ask():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt("Anybody?", agent="deaf/a")
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert "@on(Answered)" in run.error.message
        with pytest.raises(Exception, match="outside of a run"):
            await manager.handle(Deaf, "a").ask_anyway()


async def test_waiting_runs_are_listed_with_their_question():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        asked = await manager.prompt("tea", agent="buyer/a")
        await manager.prompt("nothing", agent="buyer/a")
        assert await runtime.store.list_runs(status=RunStatus.WAITING) == [asked]


def test_a_deadline_passes_in_virtual_time_while_a_run_waits_for_an_answer(
    durability: PromptDurability,
):
    async def scenario() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(APP)
            await ManualClock().advance(600)  # far from the machine's clock
            slow = await manager.prompt(
                "tea", agent="buyer/ada", run_timeout_s=30, durability=durability
            )
            assert slow.status is RunStatus.WAITING
            await ManualClock().advance(25)
            assert await runtime.store.count_runs() == {RunStatus.WAITING: 1}
            await ManualClock().advance(10)
            assert await runtime.store.count_runs() == {RunStatus.TIMED_OUT: 1}

    run_in_virtual_time(scenario())
