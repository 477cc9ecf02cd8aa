"""Events, runs and state, as a user of agents sees them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    Event,
    ManagerClient,
    Prompt,
    Run,
    RunStatus,
    TerminateEvent,
    action,
    loop,
    on,
)
from agentray.errors import IdempotencyConflict, NoHandler, UnknownAgentType
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Noticed(Event):
    text: str


class Ordered(Event):
    customer: str
    amount: int


class Unwanted(Event):
    text: str


class Ended(TerminateEvent):
    text: str


class Totals(BaseModel):
    total: int = 0
    orders: list[int] = []


class Account(Agent):
    """Keeps a total per customer."""

    state: Totals

    @on(Ordered, key="field:customer")
    async def book(self, order: Ordered) -> None:
        self.state.total += order.amount
        self.state.orders.append(order.amount)
        if order.amount == 13:
            raise ValueError("unlucky")

    @action(idempotent=True)
    async def read(self) -> int:
        return self.state.total

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        if amount < 0:
            raise ValueError("no debts")
        return self.state.total


class Desk(Agent):
    """Does with a prompt what its text says."""

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Any:
        verb, _, rest = prompt.text.partition(" ")
        match verb:
            case "say":
                return rest
            case "order":
                return [Ordered(customer=rest, amount=5), Ordered(customer=rest, amount=7)]
            case "unlucky":
                return Ordered(customer=rest, amount=13)
            case "unwanted":
                return [Unwanted(text=rest), Ended(text="told nobody")]
            case "nan":
                return math.nan
            case "work":
                for step in range(3):
                    self.context.progress(f"step {step}", current=step, total=3)
                return "worked"
            case "through":
                return await self.handle(Teller, "t").with_timeout(5.0).tell_all(rest)
            case _:
                raise ValueError(f"what is {verb!r}?")


class Teller(Agent):
    """An action that publishes: what follows belongs to the run that called it."""

    @action
    async def tell_all(self, text: str) -> str:
        self.context.publish(Noticed(text=text))
        return "told"


class Slow(Agent):
    seen: list[str] = []  # noqa: RUF012 - shared by all incarnations on purpose

    @on(Noticed, key="key:only")
    async def hear(self, noticed: Noticed) -> None:
        await asyncio.sleep(0.1)
        Slow.seen.append(noticed.text)


class Fleeting(Agent):
    options = AgentOptions(idle_timeout_s=0.05)
    stopped: list[str] = []  # noqa: RUF012 - shared by all incarnations on purpose
    state: Totals

    async def on_stop(self) -> None:
        Fleeting.stopped.append(self.id.key)

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total


Cluster = tuple[LocalRuntime, ManagerClient]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(
            App("desk", [Desk, Account, Teller, Slow, Fleeting], entry=Desk),
        )
        yield runtime, manager


async def _prompt(manager: ManagerClient, text: str) -> Run:
    return await asyncio.wait_for(manager.prompt(text), 20)


async def test_an_agent_that_is_asked_directly_answers_directly(cluster: Cluster) -> None:
    run = await _prompt(cluster[1], "say hello")
    assert (run.status, run.result, run.attempt) == (RunStatus.SUCCEEDED, "hello", 1)
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.created_at <= run.started_at <= run.finished_at


async def test_a_field_of_the_event_chooses_the_instance(cluster: Cluster) -> None:
    _, manager = cluster
    await _prompt(manager, "order ada")
    await _prompt(manager, "order ada")
    await _prompt(manager, "order bob")
    assert await manager.handle(Account, "ada").read() == 24
    assert await manager.handle(Account, "bob").read() == 12


async def test_state_outlives_the_host(cluster: Cluster) -> None:
    runtime, manager = cluster
    account = manager.handle(Account, "carl")
    assert await account.add(4) == 4
    await runtime.kill_host(runtime.host_of(account.id) or "")
    assert await account.read() == 4
    assert await account.add(1) == 5


async def test_a_failed_handler_leaves_no_trace_in_the_state(cluster: Cluster) -> None:
    _, manager = cluster
    account = manager.handle(Account, "dora")
    assert await account.add(4) == 4
    with pytest.raises(ValueError, match="no debts"):
        await account.add(-1)
    assert await account.read() == 4
    run = await _prompt(manager, "unlucky dora")
    assert run.status is RunStatus.FAILED
    assert await account.read() == 4


async def test_a_failing_branch_fails_the_run_and_tells_the_way_there(cluster: Cluster) -> None:
    run = await _prompt(cluster[1], "unlucky eve")
    assert run.status is RunStatus.FAILED
    assert run.result is None
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "unlucky")
    assert run.error.agent == "account/eve"
    assert [step.split(" at ")[0] for step in run.error.path] == ["Prompt", "Ordered"]


async def test_an_event_that_nobody_wants_is_kept_as_a_dead_letter(cluster: Cluster) -> None:
    runtime, manager = cluster
    run = await _prompt(manager, "unwanted news")
    assert run.result == {"text": "told nobody"}

    async def letters() -> list[str]:
        return [letter.target for letter in await runtime.store.list_dead_letters()]

    assert await eventually_async(letters) == [Unwanted.event_type]


async def test_an_answer_that_is_not_json_fails_its_own_run_only(cluster: Cluster) -> None:
    _, manager = cluster
    bad, good = await asyncio.gather(_prompt(manager, "nan"), _prompt(manager, "say fine"))
    assert bad.status is RunStatus.FAILED
    assert bad.error is not None
    assert bad.error.type == "PayloadError"
    assert good.result == "fine"


async def test_a_run_ends_when_what_its_calls_set_off_has_ended(cluster: Cluster) -> None:
    run = await _prompt(cluster[1], "through the-teller")
    assert run.result == "told"
    assert "the-teller" in Slow.seen


async def test_progress_and_trace_are_kept_with_the_run(cluster: Cluster) -> None:
    runtime, manager = cluster
    run = await _prompt(manager, "work")
    events = await runtime.store.run_events(run.id)
    assert [event.kind for event in events] == [
        "queued", "started", "progress", "progress", "progress", "succeeded",
    ]  # fmt: skip
    assert [event.offset for event in events] == list(range(6))
    assert events[3].data == {"message": "step 1", "current": 1, "total": 3}
    run = await _prompt(manager, "order frida")
    trace = await manager.trace(run.id)
    assert trace is not None
    spans = trace.spans
    root = next(span for span in spans if span.parent is None)
    assert root.agent == run.agent
    children = [span for span in spans if span.parent == root.id]
    assert [(c.agent, c.event) for c in children] == [("account/frida", Ordered.event_type)] * 2


async def test_the_same_key_finds_the_same_run_and_another_text_conflicts(cluster: Cluster) -> None:
    _, manager = cluster
    first = await manager.prompt("say once", idempotency_key="k1")
    assert await manager.prompt("say once", idempotency_key="k1") == first
    with pytest.raises(IdempotencyConflict) as caught:
        await manager.prompt("say twice", idempotency_key="k1")
    assert caught.value.run_id == first.id


async def test_prompts_to_nobody_are_refused_before_a_run_exists(cluster: Cluster) -> None:
    runtime, manager = cluster
    with pytest.raises(UnknownAgentType):
        await manager.prompt("hello", agent="nobody")
    with pytest.raises(NoHandler):
        await manager.prompt("hello", agent=AgentId("account", "x"))
    assert await runtime.store.list_runs() == []


async def test_an_idle_agent_leaves_memory_and_comes_back_with_its_state(cluster: Cluster) -> None:
    _, manager = cluster
    fleeting = manager.handle(Fleeting, "f")
    assert await fleeting.add(2) == 2

    async def gone() -> bool:
        return not await manager.agents("fleeting")

    await eventually_async(gone)
    assert "f" in Fleeting.stopped
    assert await fleeting.add(3) == 5


async def test_a_driver_that_stops_waiting_does_not_stop_the_run(cluster: Cluster) -> None:
    runtime, manager = cluster
    waiting = asyncio.create_task(manager.prompt("through unheard"))

    async def accepted() -> list[Run]:
        return await runtime.store.list_runs()

    (run,) = await eventually_async(accepted)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    async def ended() -> bool:
        stored = await runtime.store.get_run(run.id)
        return stored is not None and stored.run.status is RunStatus.SUCCEEDED

    await eventually_async(ended)


class Chatty(Agent):
    """Publishes several times for one message, and calls who publishes too."""

    @action
    async def tell(self, text: str) -> str | None:
        self.context.publish(Noticed(text=text))
        await self.handle(Teller, "t").tell_all(text)
        self.context.publish(Noticed(text=text))
        return self.context.correlation_id

    @loop
    async def chat(self) -> None:
        for _ in range(2):
            self.context.publish(Noticed(text="from a loop"))
        async with self.turn():
            for _ in range(2):
                self.context.publish(Noticed(text="from a turn"))
        await asyncio.Event().wait()


async def test_what_one_message_publishes_is_one_conversation_also_outside_of_runs() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("chat", [Chatty, Teller, Slow]))
        first = await manager.handle(Chatty, "c").tell("one")
        second = await manager.handle(Chatty, "c").tell("two")

        async def told() -> bool:
            return len(runtime.events(Noticed)) == 10

        await eventually_async(told)
        of = {
            text: [e.correlation_id for e in runtime.events(Noticed) if e.text == text]
            for text in ("one", "two", "from a loop", "from a turn")
        }
    assert of["one"] == [first] * 3
    assert of["two"] == [second] * 3
    # A loop lives as long as its agent: what it publishes does not belong together by itself.
    assert len({*of["from a loop"]}) == 2
    assert len({*of["from a turn"]}) == 1
    assert len({first, second, *of["from a loop"], *of["from a turn"]}) == 5
