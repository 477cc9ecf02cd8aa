"""Cancelling runs and their deadlines, wherever a run is: at work, in a queue, without a host."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from agentray import Agent, AgentId, App, ManagerClient, Pool, Prompt, on
from agentray.agent import AgentOptions
from agentray.errors import ConfigurationError, IdempotencyConflict, PoolPending, UnknownRun
from agentray.ids import new_id, slot_of
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime import run_ends
from agentray.store.base import NewRun, run_input
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

story: list[str] = []


class Worker(Agent):
    @on(Prompt)
    async def work(self, prompt: Prompt) -> str:
        story.append(f"begin {prompt.text}")
        try:
            await asyncio.sleep(float(prompt.text))
        finally:
            story.append(f"end {prompt.text}")
        return "done"


class Far(Agent):
    options = AgentOptions(pool="far")

    @on(Prompt)
    async def work(self, prompt: Prompt) -> str:
        return prompt.text


APP = App("workers", [Worker])


@pytest.fixture(autouse=True)
def _new_story() -> None:
    story.clear()


def queued(text: str, agent: AgentId, timeout_s: float | None = None) -> NewRun:
    run_id = new_id("run")
    given = run_input(text, None, timeout_s=timeout_s)
    now = datetime.now(UTC)
    return NewRun(run_id, agent, "default", slot_of(agent), given, run_id, now)


async def begun(text: str) -> None:
    async def check() -> bool:
        return f"begin {text}" in story

    await eventually_async(check, interval_s=0.01)


async def ended(runtime: LocalRuntime, run_id: str) -> Run:
    async def check() -> Run | None:
        stored = await runtime.store.get_run(run_id)
        assert stored is not None
        return stored.run if stored.run.finished_at else None

    found = await eventually_async(check, timeout_s=30)
    assert found is not None
    return found


async def only_run(runtime: LocalRuntime) -> str:
    (run,) = await runtime.store.list_runs()
    return run.id


async def test_a_prompt_ends_at_its_deadline():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        run = await manager.prompt("1000", run_timeout_s=0.1)
        assert (run.status, run.attempt) == (RunStatus.TIMED_OUT, 1)
        assert run.error is not None
        assert (run.error.type, run.error.message) == ("TimedOut", "It took longer than 0.1 s.")
        assert story == ["begin 1000", "end 1000"]
        assert (await manager.prompt("0", run_timeout_s=60)).status is RunStatus.SUCCEEDED


async def test_a_deadline_that_is_no_number_of_seconds_is_refused():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        for wrong in (0, -1, float("inf"), float("nan"), "5"):
            with pytest.raises(ConfigurationError, match="run_timeout_s"):
                await manager.prompt("0", run_timeout_s=wrong)  # pyright: ignore[reportArgumentType]


async def test_another_deadline_under_the_same_key_is_another_prompt():
    async with LocalRuntime() as manager:
        await manager.deploy(APP)
        first = await manager.prompt("0", idempotency_key="k", run_timeout_s=60)
        again = await manager.prompt("0", idempotency_key="k", run_timeout_s=60)
        assert again.id == first.id
        with pytest.raises(IdempotencyConflict):
            await manager.prompt("0", idempotency_key="k", run_timeout_s=61)


async def test_a_deadline_holds_across_attempts():
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        asking = asyncio.create_task(manager.prompt("1000", agent="worker/a", run_timeout_s=1.0))
        await begun("1000")
        where = runtime.host_of(AgentId("worker", "a"))
        assert where is not None
        await runtime.kill_host(where)
        run = await asyncio.wait_for(asking, 20)
        assert run.status is RunStatus.TIMED_OUT
        assert run.attempt >= 2
        assert run.finished_at is not None
        assert (run.finished_at - run.created_at).total_seconds() >= 1.0


async def test_a_run_that_waits_behind_others_ends_at_its_deadline_and_is_never_begun():
    async with LocalRuntime(hosts=1, max_runs=1) as manager:
        await manager.deploy(APP)
        first = asyncio.create_task(manager.prompt("2"))
        await begun("2")
        second = await manager.prompt("3", run_timeout_s=0.2)
        assert second.status is RunStatus.TIMED_OUT
        assert (await first).status is RunStatus.SUCCEEDED
        assert story == ["begin 2", "end 2"]


async def test_a_run_of_an_app_that_is_gone_ends_at_its_deadline():
    runtime = LocalRuntime()
    async with runtime:
        new = queued("0", AgentId("ghost", "a"), timeout_s=0.2)
        await runtime.store.admit([new])
        run = await ended(runtime, new.id)
        assert run.status is RunStatus.TIMED_OUT
        events = await runtime.store.run_events(new.id)
        assert [(event.offset, event.kind) for event in events] == [(0, "timed_out")]


async def cancel(manager: ManagerClient, run_id: str) -> Run:
    return await asyncio.wait_for(manager.cancel_run(run_id), 30)


async def test_cancelling_a_prompt_returns_when_its_handler_has_ended():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        asking = asyncio.create_task(manager.prompt("1000"))
        await begun("1000")
        run = await cancel(manager, await only_run(runtime))
        assert run.status is RunStatus.CANCELLED
        assert story == ["begin 1000", "end 1000"]
        assert (await asking) == run
        assert await cancel(manager, run.id) == run, "it stays as it is"


async def test_cancelling_a_run_that_nobody_knows():
    async with LocalRuntime() as manager:
        with pytest.raises(UnknownRun):
            await cancel(manager, "run_0")


async def test_a_run_that_waits_behind_others_is_cancelled_without_beginning():
    runtime = LocalRuntime(hosts=1, max_runs=1)
    async with runtime as manager:
        await manager.deploy(APP)
        first = asyncio.create_task(manager.prompt("2"))
        await begun("2")
        second = asyncio.create_task(manager.prompt("3"))

        async def both() -> bool:
            return len(await runtime.store.list_runs()) == 2

        await eventually_async(both)
        newest = (await runtime.store.list_runs())[0].id
        assert (await cancel(manager, newest)).status is RunStatus.CANCELLED
        assert (await second).status is RunStatus.CANCELLED
        assert (await first).status is RunStatus.SUCCEEDED
        assert story == ["begin 2", "end 2"]


async def test_a_run_of_a_stopped_app_can_be_cancelled():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(APP)
        await manager.stop("workers")
        new = queued("0", AgentId("worker", "a"))
        await runtime.store.admit([new])
        assert (await cancel(manager, new.id)).status is RunStatus.CANCELLED
        assert story == []
        kinds = [event.kind for event in await runtime.store.run_events(new.id)]
        assert kinds == ["queued", "cancelled"]


async def test_a_run_of_an_app_that_is_gone_can_be_cancelled():
    runtime = LocalRuntime()
    async with runtime as manager:
        new = queued("0", AgentId("ghost", "a"))
        await runtime.store.admit([new])
        assert (await cancel(manager, new.id)).status is RunStatus.CANCELLED


async def test_a_run_whose_pool_has_no_room_can_be_cancelled():
    runtime = LocalRuntime(resources={"CPU": 0})
    async with runtime as manager:
        far = Pool("far", hosts=1, num_cpus=4)
        with pytest.raises(PoolPending):
            await manager.deploy(App("far", [Far], pools=[far]), pending_timeout=0.1)
        agent = AgentId("far", "a")
        new = queued("0", agent)
        await runtime.store.admit([new])
        assert (await cancel(manager, new.id)).status is RunStatus.CANCELLED


async def test_what_was_to_be_cancelled_is_not_begun_again_when_its_host_dies():
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        asking = asyncio.create_task(manager.prompt("1000", agent="worker/a"))
        await begun("1000")
        # As if whoever was asked had died before it could tell the host.
        await runtime.store.request_cancel(await only_run(runtime), datetime.now(UTC))
        where = runtime.host_of(AgentId("worker", "a"))
        assert where is not None
        await runtime.kill_host(where)
        run = await asyncio.wait_for(asking, 30)
        assert run.status is RunStatus.CANCELLED
        assert story.count("begin 1000") == 1


async def test_a_wish_that_nobody_came_to_fulfil_is_fulfilled_by_the_manager(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(run_ends, "HOST_S", 0.3)
    runtime = LocalRuntime()
    async with runtime:
        new = queued("0", AgentId("ghost", "a"))
        await runtime.store.admit([new])
        await runtime.store.request_cancel(new.id, datetime.now(UTC))
        assert (await ended(runtime, new.id)).status is RunStatus.CANCELLED
