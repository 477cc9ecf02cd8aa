"""Prompts in sessions: one at a time in their order, whatever dies and whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentray import Agent, App, Ask, ConfigurationError, Prompt, on
from agentray.errors import (
    IdempotencyConflict,
    NoHandler,
    SessionBusy,
    SessionChanged,
    SessionConflict,
    UnknownAgentType,
    UnknownSession,
)
from agentray.events import Answered
from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async
from tests.support.session_agents import Deaf, Echoed, Scribe, Stubborn, app, gates, said


class Asker(Agent):
    """Asks a person, or has others work on what it is told."""

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        if prompt.text.startswith("ask"):
            return Ask(question="Really?")
        if prompt.text.startswith("spread"):
            return Echoed(text=prompt.text.replace("spread", "wait"))
        await gates.pass_by(prompt.text)
        return {"lines": [prompt.text]}

    @on(Answered)
    async def answered(self, answered: Answered) -> Any:
        return answered.value


asking = App("askers", [Asker])


@pytest.fixture(autouse=True)
def fresh_gates() -> None:
    gates.clear()


def in_runtime(test: Any, **options: Any) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(**options)
        async with runtime as manager:
            await manager.deploy(app)
            await manager.deploy(asking)
            await test(manager, runtime)

    run(whole())


def prompting(manager: ManagerClient, text: str, **more: Any) -> asyncio.Task[Run]:
    return asyncio.create_task(manager.prompt(text, session="s", **more))


async def lines(manager: ManagerClient, agent: str = "scribe/s") -> list[str]:
    return (await manager.save_state(agent)).state["lines"]


async def kill_host_of(runtime: LocalRuntime, agent: AgentId) -> None:
    host = runtime.host_of(agent)
    assert host is not None
    await runtime.kill_host(host)


# Sessions


def test_a_session_is_made_found_changed_and_listed() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        made = await manager.sessions.create(
            "s", agent=Scribe, access_level="read", labels={"team": "blue"}, title="Notes"
        )
        assert (made.agent, made.version, made.owner) == ("scribe/s", 1, "")
        assert await manager.sessions.get("s") == made
        again = await manager.sessions.create(
            "s", agent="scribe", access_level="read", labels={"team": "blue"}, title="Notes"
        )
        assert again == made
        with pytest.raises(SessionConflict):
            await manager.sessions.create("s", agent=Scribe)
        with pytest.raises(SessionConflict):
            await manager.sessions.create("t", agent="scribe/s")

        changed = await manager.sessions.update("s", title="Other", version=1)
        assert (changed.title, changed.labels, changed.version) == ("Other", {"team": "blue"}, 2)
        with pytest.raises(SessionChanged):
            await manager.sessions.update("s", title="Late", version=1)
        assert (await manager.sessions.update("s", ttl_s=60)).expires_at is not None

        other = await manager.sessions.create(agent=AgentId("scribe", "x"))
        assert other.id.startswith("ses_")
        found = await manager.sessions.list(labels={"team": "blue"}, agent=Scribe)
        assert [each.id for each in found] == ["s"]
        assert [each.id for each in await manager.sessions.list(agent="scribe/x")] == [other.id]
        assert len(await manager.sessions.list(limit=1)) == 1

    in_runtime(test)


def test_what_is_wrong_with_a_session_is_told() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        with pytest.raises(ConfigurationError, match="1 to 100"):
            await manager.sessions.create("a/b", agent=Scribe)
        with pytest.raises(ConfigurationError, match="access_level"):
            await manager.sessions.create(agent=Scribe, access_level="root")
        with pytest.raises(ConfigurationError, match="ttl_s"):
            await manager.sessions.create(agent=Scribe, ttl_s=0)
        with pytest.raises(UnknownAgentType):
            await manager.sessions.create(agent="nobody")
        with pytest.raises(NoHandler):
            await manager.sessions.create(agent=Deaf)
        for unknown in ("nope", "a\0b", "\ud800"):
            with pytest.raises(UnknownSession):
                await manager.sessions.get(unknown)
            with pytest.raises(UnknownSession):
                await manager.prompt("x", session=unknown)
        await manager.sessions.create("s", agent=Scribe)
        with pytest.raises(ConfigurationError, match="agent"):
            await manager.prompt("x", session="s", agent="scribe/s")
        with pytest.raises(ConfigurationError, match="delay_s"):
            await manager.prompt("x", session="s", delay_s=5)
        with pytest.raises(ConfigurationError, match="policy"):
            await manager.prompt("x", session="s", policy="push")  # pyright: ignore[reportArgumentType]

    in_runtime(test)


# Turns


def test_prompts_of_a_session_are_one_after_the_other_in_their_order() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        session = await manager.sessions.create("s", agent=Scribe)
        tasks = [prompting(manager, f"wait {n}") for n in range(3)]
        await gates.until_begun("wait 0")
        free = await manager.prompt("other", agent="scribe/other")
        assert free.status is RunStatus.SUCCEEDED
        assert gates.begun == ["wait 0", "other"]
        for n in range(3):
            await gates.until_begun(f"wait {n}")
            assert len(gates.begun) == n + 2
            gates.gate(f"wait {n}").set()
        runs = await asyncio.gather(*tasks)
        assert [said(each) for each in runs] == [
            [f"wait {k}" for k in range(n + 1)] for n in range(3)
        ]
        assert {each.session for each in runs} == {"s"}
        history = await manager.sessions.runs(session.id)
        assert [(each.number, each.prompt) for each in history] == [
            (n + 1, f"wait {n}") for n in range(3)
        ]
        assert [each.run for each in history] == list(runs)

    in_runtime(test)


def test_a_run_is_over_when_all_that_it_set_off_is() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Asker)
        first, second = prompting(manager, "spread"), prompting(manager, "next")
        await gates.until_begun("wait")
        await asyncio.sleep(3)
        assert gates.begun == ["wait"]
        gates.gate("wait").set()
        await asyncio.gather(first, second)
        assert gates.begun == ["wait", "next"]

    in_runtime(test)


def test_a_prompt_waits_for_a_run_that_waits_for_an_answer() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Asker)
        waiting = await manager.prompt("ask", session="s")
        assert waiting.status is RunStatus.WAITING
        second = prompting(manager, "next")
        await asyncio.sleep(3)
        assert gates.begun == []
        await manager.answer(waiting.id, "yes")
        assert said(await second) == ["next"]

    in_runtime(test)


def test_a_busy_session_refuses_who_does_not_wait() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe)
        first = prompting(manager, "wait")
        await gates.until_begun("wait")
        with pytest.raises(SessionBusy) as refused:
            await manager.prompt("late", session="s", policy="reject")
        gates.gate("wait").set()
        assert refused.value.run_id == (await first).id
        later = await manager.prompt("late", session="s", policy="reject")
        assert later.status is RunStatus.SUCCEEDED

    in_runtime(test)


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
def test_an_interrupting_prompt_begins_when_those_before_it_are_cancelled(policy: Any) -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe)
        await manager.prompt("one", session="s")
        under_way, queued = prompting(manager, "wait"), prompting(manager, "queued")
        await gates.until_begun("wait")
        await asyncio.sleep(0.5)
        last = await manager.prompt("last", session="s", policy=policy)
        assert said(last) == ["one", "last"]
        ended = [(await each).status for each in (under_way, queued)]
        assert ended == [RunStatus.CANCELLED] * 2
        assert "wait" not in gates.ended
        history = await manager.sessions.runs("s", rolled_back=True)
        assert [each.prompt for each in history] == ["one", "wait", "queued", "last"]
        rolled_back = policy == "rollback"
        assert [each.rolled_back for each in history] == [False, rolled_back, rolled_back, False]
        shown = await manager.sessions.runs("s")
        assert len(shown) == (2 if rolled_back else 4)

    in_runtime(test)


@pytest.mark.parametrize(
    ("policy", "kept"), [("interrupt", ["a", "wait", "b"]), ("rollback", ["a", "b"])]
)
def test_what_was_committed_stays_or_goes_back(policy: Any, kept: list[str]) -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Stubborn)
        await manager.prompt("a", session="s")
        interrupted = prompting(manager, "wait")
        await gates.until_begun("wait")
        assert await lines(manager, "stubborn/s") == ["a", "wait"]
        last = await manager.prompt("b", session="s", policy=policy)
        assert said(last) == kept
        assert await lines(manager, "stubborn/s") == kept
        assert (await interrupted).status is RunStatus.CANCELLED

    in_runtime(test)


def test_a_rollback_of_the_first_prompt_begins_anew() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Stubborn)
        prompting(manager, "wait")
        await gates.until_begun("wait")
        last = await manager.prompt("b", session="s", policy="rollback")
        assert said(last) == ["b"]

    in_runtime(test)


# Deaths


@pytest.mark.parametrize("policy", ["enqueue", "interrupt", "rollback"])
def test_turns_are_kept_when_hosts_die(policy: Any) -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Stubborn)
        await manager.prompt("a", session="s")
        first = prompting(manager, "wait")
        await gates.until_begun("wait")
        second = prompting(manager, "b", policy=policy)
        await kill_host_of(runtime, AgentId("stubborn", "s"))
        gates.gate("wait").set()
        last, before = await second, await first
        assert last.status is RunStatus.SUCCEEDED
        cancelled = policy != "enqueue" and before.status is RunStatus.CANCELLED
        assert cancelled or before.status is RunStatus.SUCCEEDED
        history = await manager.sessions.runs("s", rolled_back=True)
        assert [each.prompt for each in history] == ["a", "wait", "b"]
        if policy == "rollback":
            assert said(last) == ["a", "b"]
        else:
            assert said(last)[0] == "a"
            assert said(last)[-1] == "b"

    in_runtime(test, hosts=2)


def test_a_run_that_waits_for_its_turn_begins_although_nobody_waits_for_it() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe)
        prompting(manager, "wait")
        await gates.until_begun("wait")
        second = prompting(manager, "b")
        await asyncio.sleep(1)
        second.cancel()
        await kill_host_of(runtime, AgentId("scribe", "s"))
        gates.gate("wait").set()
        await gates.until_begun("b")

    in_runtime(test, hosts=2)


def test_a_repeated_prompt_finds_its_run() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe)
        first = prompting(manager, "wait")
        await gates.until_begun("wait")
        second = prompting(manager, "b", idempotency_key="k")
        again = prompting(manager, "b", idempotency_key="k")
        await asyncio.sleep(1)
        with pytest.raises(IdempotencyConflict):
            await manager.prompt("c", session="s", idempotency_key="k")
        await asyncio.sleep(1)
        gates.gate("wait").set()
        assert (await second).id == (await again).id
        await first
        assert gates.begun == ["wait", "b"]

    in_runtime(test)


async def test_a_run_that_waits_for_its_turn_can_be_cancelled_and_times_out():
    async with LocalRuntime() as manager:
        await manager.deploy(app)
        await manager.sessions.create("s", agent=Scribe)
        first = prompting(manager, "wait")
        await gates.until_begun("wait")
        late = prompting(manager, "late", run_timeout_s=0.2)
        unwanted = prompting(manager, "unwanted")

        async def entry() -> Any:
            found = await manager.sessions.runs("s")
            return next((e for e in found if e.prompt == "unwanted"), None)

        run_id = (await eventually_async(entry)).run.id
        assert (await manager.cancel_run(run_id)).status is RunStatus.CANCELLED
        assert (await unwanted).status is RunStatus.CANCELLED
        assert (await late).status is RunStatus.TIMED_OUT
        gates.gate("wait").set()
        assert (await first).status is RunStatus.SUCCEEDED
        assert gates.begun == ["wait"]


# Ends of sessions


def test_a_deleted_session_is_gone_with_its_runs_and_its_agents_state() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe)
        done = await manager.prompt("a", session="s")
        first, second = prompting(manager, "wait"), prompting(manager, "b")
        await gates.until_begun("wait")
        await manager.sessions.delete("s")
        with pytest.raises(UnknownSession):
            await manager.sessions.get("s")
        assert (await first).status is RunStatus.CANCELLED
        assert (await second).status is RunStatus.CANCELLED
        with pytest.raises(UnknownSession):
            await manager.prompt("c", session="s")

        async def forgotten() -> bool:
            return not await runtime.store.load_states([AgentId("scribe", "s")])

        await eventually_async(forgotten)
        assert await runtime.store.gone_sessions() == []
        assert await runtime.store.get_run(done.id) is not None
        anew = await manager.sessions.create("s", agent=Scribe)
        assert anew.version == 1
        assert said(await manager.prompt("x", session="s")) == ["x"]

    in_runtime(test)


def test_the_state_of_an_agent_that_was_there_before_outlives_the_session() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.prompt("a", agent="scribe/ada")
        session = await manager.sessions.create(agent="scribe/ada")
        assert said(await manager.prompt("b", session=session)) == ["a", "b"]
        await manager.sessions.delete(session.id)
        await asyncio.sleep(300)
        assert await lines(manager, "scribe/ada") == ["a", "b"]

    in_runtime(test)


def test_a_session_expires_when_it_is_not_used() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe, ttl_s=100)
        for _ in range(3):
            await asyncio.sleep(80)
            await manager.prompt("a", session="s")
        first = prompting(manager, "wait")
        await asyncio.sleep(150)
        assert (await manager.sessions.get("s")).id == "s"
        gates.gate("wait").set()
        await first
        await asyncio.sleep(101)
        with pytest.raises(UnknownSession):
            await manager.sessions.get("s")
        await asyncio.sleep(200)
        assert not await runtime.store.load_states([AgentId("scribe", "s")])
        assert await runtime.store.gone_sessions() == []

    in_runtime(test)


# Copies


def test_a_copy_goes_on_where_the_original_stood() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.sessions.create("s", agent=Scribe, labels={"a": "b"}, ttl_s=60)
        await manager.prompt("one", session="s")
        under_way = prompting(manager, "wait")
        await gates.until_begun("wait")
        copy = await manager.sessions.copy("s", "c", title="Copy", ttl_s=None)
        assert (copy.agent, copy.copied_from, copy.labels) == ("scribe/c", "s", {"a": "b"})
        assert (copy.title, copy.expires_at) == ("Copy", None)
        assert said(await manager.prompt("two", session="c")) == ["one", "two"]
        gates.gate("wait").set()
        assert said(await under_way) == ["one", "wait"]
        shown = [each.prompt for each in await manager.sessions.runs("c")]
        assert shown == ["one", "two"]
        with pytest.raises(SessionConflict):
            await manager.sessions.copy("s", "c")
        with pytest.raises(UnknownSession):
            await manager.sessions.copy("nope")

    in_runtime(test)
