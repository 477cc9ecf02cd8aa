"""Runs that begin later: kept at once, begun once, in time, also after an outage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentray import Agent, App, ConfigurationError, Event, Prompt, TerminateEvent, on
from agentray.core.delays import begin_at
from agentray.errors import DeadlineExceeded, IdempotencyConflict, UnknownRun
from agentray.ids import AgentId
from agentray.protocol.runs import RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.store.base import NewRun
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, ManualClock, run

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
handled: list[tuple[str, float]] = []


class Said(TerminateEvent):
    text: str


class Rung(Event):
    text: str


class Bell(Agent):
    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Said:
        handled.append((prompt.text, ManualClock().time_of_day.timestamp()))
        return Said(text=prompt.text)

    @on(Rung)
    async def rung(self, rung: Rung) -> Said:
        handled.append((rung.text, ManualClock().time_of_day.timestamp()))
        return Said(text=rung.text)


class Deputy(Agent):
    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Said:
        later = await self.dispatch(Rung(text=prompt.text), delay_s=30)
        return Said(text=later.id)


app = App("bells", [Bell, Deputy])


@pytest.fixture(autouse=True)
def nothing_handled() -> None:
    handled.clear()


def in_runtime(test: Any, **options: Any) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(**options)
        async with runtime as manager:
            await manager.deploy(app)
            await test(manager, runtime, ManualClock())

    run(whole(), start=NOON)


def late_by(expected: datetime) -> float:
    ((_, at),) = handled
    return at - expected.timestamp()


def test_a_delayed_prompt_is_kept_at_once_and_begins_in_time() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        before = clock.time_of_day
        accepted = await manager.prompt("tea", agent="bell/hall", delay_s=60)
        stored = await runtime.store.get_run(accepted.id)
        assert stored is not None
        assert stored.run == accepted
        assert accepted.status is RunStatus.QUEUED
        assert accepted.not_before is not None
        assert 60 <= (accepted.not_before - before).total_seconds() < 61

        await clock.advance(58)
        assert handled == []
        await clock.advance(4)
        assert 0 <= late_by(accepted.not_before) < 1.1
        stored = await runtime.store.get_run(accepted.id)
        assert stored is not None
        assert (stored.run.status, stored.run.attempt) == (RunStatus.SUCCEEDED, 1)
        assert stored.run.result == {"text": "tea"}
        kinds = [event.kind for event in await runtime.store.run_events(accepted.id)]
        assert kinds == ["queued", "started", "succeeded"]

    in_runtime(test)


def test_a_run_begins_at_a_time_in_any_zone_and_one_that_is_over_means_now() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        when = (NOON + timedelta(minutes=5)).astimezone()
        accepted = await manager.prompt("soon", agent="bell/hall", at=when)
        assert accepted.not_before == when
        await manager.prompt("past", agent="bell/yard", at=NOON - timedelta(days=1))
        await clock.advance(2)
        assert [text for text, _ in handled] == ["past"]
        await clock.advance(300)
        assert [text for text, _ in handled] == ["past", "soon"]

    in_runtime(test)


def test_a_repeated_key_finds_the_delayed_run_and_another_delay_is_a_conflict() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        ask: dict[str, Any] = {"agent": "bell/hall", "idempotency_key": "tea"}
        first = await manager.prompt("tea", delay_s=60, **ask)
        assert (await manager.prompt("tea", delay_s=60, **ask)).id == first.id
        with pytest.raises(IdempotencyConflict):
            await manager.prompt("tea", delay_s=61, **ask)
        with pytest.raises(IdempotencyConflict):
            await manager.prompt("tea", **ask)
        await clock.advance(5)
        assert handled == []  # none of these has begun it
        await clock.advance(60)
        again = await manager.prompt("tea", delay_s=60, **ask)
        assert (again.id, again.status) == (first.id, RunStatus.SUCCEEDED)
        assert len(handled) == 1

    in_runtime(test)


def test_a_delayed_event_gives_its_result_to_who_waits() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        before = clock.time_of_day
        begun = await manager.dispatch(Rung(text="lunch"), delay_s=120)
        assert begun.status is RunStatus.QUEUED
        assert begun.not_before is not None
        assert 120 <= (begun.not_before - before).total_seconds() < 121
        with pytest.raises(DeadlineExceeded):
            await begun.wait(timeout=60)
        assert handled == []
        assert await begun.result() == {"text": "lunch"}
        assert 0 <= late_by(begun.not_before) < 1.1
        assert [type(event) async for event in begun.events()] == [Rung, Said]
        assert clock.now < 130

    in_runtime(test)


def test_an_agent_dispatches_for_later() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        await manager.prompt("tea", agent="deputy/one")
        assert handled == []
        await clock.advance(33)
        assert [text for text, _ in handled] == ["tea"]

    in_runtime(test)


def test_a_delayed_run_is_cancelled_before_it_begins() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        prompted = await manager.prompt("tea", agent="bell/hall", delay_s=60)
        dispatched = await manager.dispatch(Rung(text="lunch"), delay_s=60)
        cancelled = await manager.cancel_run(prompted.id)
        assert cancelled.status is RunStatus.CANCELLED
        assert (await dispatched.cancel()).status is RunStatus.CANCELLED
        await clock.advance(120)
        assert handled == []
        assert await runtime.store.count_runs() == {RunStatus.CANCELLED: 2}
        assert await runtime.store.due_runs(clock.time_of_day) == []

    in_runtime(test)


def test_a_run_that_was_due_while_everything_was_down_begins_as_soon_as_it_is_up() -> None:
    async def whole() -> None:
        store, clock = MemoryStore(), ManualClock()
        async with LocalRuntime(store=store) as manager:
            await manager.deploy(app)
            accepted = await manager.prompt("tea", agent="bell/hall", delay_s=60)
        await clock.advance(1800)
        assert handled == []
        async with LocalRuntime(store=store):
            await clock.advance(5)
            assert [text for text, _ in handled] == ["tea"]
        stored = await store.get_run(accepted.id)
        assert stored is not None
        assert (stored.run.status, stored.run.attempt) == (RunStatus.SUCCEEDED, 1)

    run(whole(), start=NOON)


@pytest.mark.parametrize("away", ["manager", "host"])
def test_it_begins_once_when_manager_or_host_die_around_its_time(away: str) -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        for n in range(20):
            await manager.prompt(f"{n}", agent=f"bell/{n}", delay_s=10)
        await clock.advance(9.5)
        if away == "manager":
            await runtime.restart_manager()
        else:
            await runtime.kill_host(runtime.hosts[0])
        await clock.advance(20)
        assert sorted(int(text) for text, _ in handled) == list(range(20))
        assert await runtime.store.count_runs() == {RunStatus.SUCCEEDED: 20}

    in_runtime(test)


def test_runs_that_nobody_can_take_do_not_hold_up_others() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        nobody = AgentId("nobody", "one")
        lost = [
            NewRun(f"run_{n}", nobody, "none", 0, {}, "c", NOON, not_before=NOON)
            for n in range(1200)
        ]
        await runtime.store.admit(lost)
        await manager.prompt("tea", agent="bell/hall", delay_s=1)
        await clock.advance(3)
        assert [text for text, _ in handled] == ["tea"]
        assert len(await runtime.store.due_runs(clock.time_of_day, limit=2000)) == len(lost)

    in_runtime(test)


@pytest.mark.parametrize(
    ("delay_s", "at"),
    [
        (1, NOON),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        ("1", None),
        (None, datetime(2026, 1, 1)),  # noqa: DTZ001 - that is what is wrong
        (None, "2026-01-01"),
    ],
)
def test_a_wrong_beginning_is_told(delay_s: Any, at: Any) -> None:
    with pytest.raises(ConfigurationError):
        begin_at(delay_s, at, NOON)


def test_a_run_that_begins_later_is_durable() -> None:
    async def test(manager: ManagerClient, *_: object) -> None:
        with pytest.raises(ConfigurationError):
            await manager.dispatch(Rung(text="lunch"), durability="none", delay_s=1)
        with pytest.raises(UnknownRun):
            await manager.cancel_run("run_0")

    in_runtime(test)
