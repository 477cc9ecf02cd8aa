"""Schedules: each firing is one run, once, whatever is down at its time."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from agentray import Agent, App, Event, Prompt, TerminateEvent, on
from agentray.errors import (
    InvalidSchedule,
    ScheduleConflict,
    UnknownAgentType,
    UnknownSchedule,
)
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.schedules import Schedule, ScheduleStatus
from agentray.runtime.channel import Channel
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.schedule_client import ScheduleClient
from agentray.runtime.scheduler import Scheduler
from agentray.runtime.sync_schedules import SyncSchedules
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, ManualClock, run

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
handled: list[tuple[str, datetime]] = []


class Done(TerminateEvent):
    text: str


class Rung(Event):
    text: str


class Bell(Agent):
    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Done:
        handled.append((prompt.text, ManualClock().time_of_day))
        return Done(text=prompt.text)

    @on(Rung)
    async def rung(self, rung: Rung) -> Done:
        handled.append((rung.text, ManualClock().time_of_day))
        return Done(text=f"{rung.event_id} {rung.time.isoformat()}")


class Slow(Agent):
    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Done:
        handled.append((prompt.text, ManualClock().time_of_day))
        await ManualClock().advance(150)
        return Done(text=prompt.text)


app = App("bells", [Bell, Slow])


@pytest.fixture(autouse=True)
def nothing_handled() -> None:
    handled.clear()


def in_runtime(test: Any, *, start: datetime = NOON, **options: Any) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(**options)
        async with runtime as manager:
            await manager.deploy(app)
            await test(manager, runtime, ManualClock())

    run(whole(), start=start, at_most_s=20_000)


def minutes() -> list[str]:
    """The minutes at which something was handled, each within a second or two of its beginning."""
    assert all(at.second < 2 for _, at in handled), handled
    return [at.strftime("%H:%M") for _, at in handled]


async def runs_of(runtime: LocalRuntime, schedule: Schedule) -> list[Run]:
    found = await runtime.store.list_runs(limit=200)
    return sorted((r for r in found if r.schedule == schedule.id), key=lambda r: str(r.not_before))


# Firing


def test_a_cron_schedule_fires_in_time_and_each_firing_is_a_run() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create(
            "tea", prompt="tea", agent="bell/hall", cron="*/2 * * * *"
        )
        assert made.next_times[:2] == (NOON + timedelta(minutes=2), NOON + timedelta(minutes=4))
        await clock.advance(7 * 60)
        assert minutes() == ["12:02", "12:04", "12:06"]
        runs = await runs_of(runtime, made)
        assert [r.not_before for r in runs] == [NOON + timedelta(minutes=n) for n in (2, 4, 6)]
        assert {(r.status, r.attempt, r.agent) for r in runs} == {
            (RunStatus.SUCCEEDED, 1, "bell/hall")
        }
        now = await manager.schedules.get("tea")
        assert (now.fired, now.skipped, now.last_run) == (3, 0, runs[-1].id)
        assert now.next_at == NOON + timedelta(minutes=8)

    in_runtime(test)


def test_an_interval_is_counted_from_its_start_and_ends_at_its_end() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        begin = NOON + timedelta(minutes=1)
        await manager.schedules.create(
            prompt="x",
            agent=Bell,
            every_s=60,
            starts_at=begin,
            ends_at=begin + timedelta(minutes=2),
        )
        await clock.advance(600)
        assert minutes() == ["12:01", "12:02", "12:03"]
        (ended,) = await manager.schedules.list()
        assert (ended.status, ended.next_at) == (ScheduleStatus.ENDED, None)

    in_runtime(test)


def test_a_cron_is_read_in_its_time_zone() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create(
            prompt="x", agent="bell/one", cron="5 14 * * *", timezone="Europe/Berlin"
        )
        assert made.next_at == NOON + timedelta(minutes=5)
        await clock.advance(400)
        assert minutes() == ["12:05"]

    in_runtime(test)


def test_a_schedule_of_an_event_dispatches_a_new_one_each_time() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create("ring", event=Rung(text="ring"), every_s=60)
        await clock.advance(130)
        assert [text for text, _ in handled] == ["ring", "ring"]
        first, second = await runs_of(runtime, made)
        assert first.status is second.status is RunStatus.SUCCEEDED
        assert first.result["text"] != second.result["text"]
        assert first.correlation_id == first.id
        kinds = [event.kind for event in await runtime.store.run_events(first.id)]
        assert kinds == ["queued", "started", "event", "event", "succeeded"]

    in_runtime(test)


def test_jitter_lets_runs_begin_later_within_its_bound() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create(
            prompt="x", agent="bell/one", cron="* * * * *", jitter_s=50
        )
        await clock.advance(11 * 60)
        begins = [r.not_before for r in await runs_of(runtime, made) if r.not_before]
        late = [(at - NOON).total_seconds() % 60 for at in begins]
        assert len(late) >= 10
        assert all(0 <= seconds < 50 for seconds in late)
        assert len(set(late)) > 5

    in_runtime(test)


# Outages


@pytest.mark.parametrize(
    ("missed", "fired", "skipped"),
    [("skip", ["12:30"], 29), ("one", ["12:30"], 29), ("all", ["12:30"] * 11, 19)],
)
def test_firings_that_were_missed_while_all_was_down(
    missed: Any, fired: list[str], skipped: int
) -> None:
    async def whole() -> None:
        store, clock = MemoryStore(), ManualClock()
        async with LocalRuntime(store=store) as manager:
            await manager.deploy(app)
            await manager.schedules.create(
                "tea", prompt="tea", agent="bell/hall", cron="* * * * *",
                missed=missed, max_missed=10, overlap="enqueue", grace_s=30,
            )  # fmt: skip
        await clock.advance(30 * 60 - clock.now + 0.1)
        assert handled == []
        async with LocalRuntime(store=store) as manager:
            await clock.advance(20)
            found = await manager.schedules.get("tea")
            assert (found.fired, found.skipped) == (len(fired), skipped)
            assert [at.strftime("%H:%M") for _, at in handled] == fired
        begun = sorted(r.not_before for r in await store.list_runs(limit=100) if r.not_before)
        last = NOON + timedelta(minutes=30)
        assert begun == [last - timedelta(minutes=n) for n in range(len(fired))][::-1]

    run(whole(), start=NOON, at_most_s=7200)


def test_each_firing_is_once_while_managers_and_hosts_come_and_go() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create(
            "tea", prompt="tea", agent=Bell, every_s=10, overlap="allow"
        )
        for n in range(12):
            await clock.advance(4.7)
            if n % 3 == 0:
                await runtime.kill_host(runtime.hosts[0])
            else:
                await runtime.restart_manager()
        await clock.advance(30)
        runs = await runs_of(runtime, made)
        times = [r.not_before for r in runs if r.not_before]
        assert times == [times[0] + n * timedelta(seconds=10) for n in range(len(times))]
        assert len(times) >= 8
        assert {r.status for r in runs} == {RunStatus.SUCCEEDED}
        assert len(handled) == len(times)

    in_runtime(test)


def test_two_schedulers_on_one_store_fire_once() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        await manager.schedules.create("tea", prompt="tea", agent="bell/hall", every_s=10)
        channel = Channel(runtime.network)
        snapshot = await runtime.manager.watch(0)
        assert snapshot is not None
        channel.update(snapshot)
        second = Scheduler(runtime.store, channel)
        second.start()
        await clock.advance(101)
        await second.close()
        await channel.close()
        assert len(handled) == 10

    in_runtime(test)


def test_a_schedule_whose_agent_is_gone_waits_says_why_and_holds_up_nobody() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        await manager.schedules.create("a", prompt="a", agent="bell/one", every_s=60)
        await manager.stop("bells")
        await clock.advance(65)
        waits = await manager.schedules.get("a")
        assert waits.last_error is not None
        assert waits.fired == 0
        await manager.deploy(app)
        await clock.advance(10)
        fired = await manager.schedules.get("a")
        assert (fired.fired, fired.last_error) == (1, None)
        assert len(handled) == 1

    in_runtime(test)


# Overlap


@pytest.mark.parametrize(
    ("overlap", "begun", "skipped"),
    [
        ("allow", ["12:01", "12:02", "12:03", "12:04", "12:05"], 0),
        ("skip", ["12:01", "12:04"], 3),
        ("enqueue", ["12:01", "12:03", "12:06"], 0),
    ],
)
def test_a_firing_meets_an_unfinished_run(overlap: Any, begun: list[str], skipped: int) -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        await manager.schedules.create(
            "slow", prompt="x", agent=Slow, cron="* * * * *", overlap=overlap,
            ends_at=NOON + timedelta(minutes=5),
        )  # fmt: skip
        await clock.advance(7.5 * 60)
        assert [at.strftime("%H:%M") for _, at in handled][: len(begun)] == begun
        assert (await manager.schedules.get("slow")).skipped == skipped
        times = [at for _, at in handled]
        apart = [other - one for one, other in pairwise(times)]
        if overlap != "allow":
            assert all(pause >= timedelta(seconds=150) for pause in apart)

    in_runtime(test)


# Looking after schedules


def test_a_paused_schedule_makes_no_runs_and_resumes_from_now_on() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        schedules = manager.schedules
        await schedules.create("tea", prompt="tea", agent="bell/hall", cron="* * * * *")
        paused = await schedules.pause("tea")
        assert (paused.status, paused.next_at, paused.next_times) == ("paused", None, ())
        await clock.advance(200)
        assert handled == []
        assert (await schedules.resume("tea")).status is ScheduleStatus.ACTIVE
        await clock.advance(60)
        assert minutes() == ["12:04"]
        again = await schedules.resume("tea")
        assert again.fired == 1

    in_runtime(test)


def test_a_run_by_hand_leaves_the_times_as_they_are() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        made = await manager.schedules.create("tea", prompt="tea", agent="bell/hall", every_s=600)
        await manager.schedules.pause("tea")
        begun = await manager.schedules.trigger("tea")
        assert (begun.status, begun.schedule) == (RunStatus.QUEUED, "tea")
        await clock.advance(2)
        assert len(handled) == 1
        await manager.schedules.resume("tea")
        found = await manager.schedules.get("tea")
        assert (found.fired, found.last_run, found.next_at) == (1, begun.id, made.next_at)

    in_runtime(test)


def test_the_same_is_found_another_is_a_conflict_and_replacing_it_counts() -> None:
    async def test(manager: ManagerClient, _: LocalRuntime, clock: ManualClock) -> None:
        schedules = manager.schedules
        first = await schedules.create("tea", prompt="tea", agent=Bell, every_s=60)
        assert await schedules.create("tea", prompt="tea", agent="bell", every_s=60) == first
        with pytest.raises(ScheduleConflict):
            await schedules.create("tea", prompt="cake", agent=Bell, every_s=60)
        replaced = await schedules.replace("tea", prompt="cake", agent=Bell, every_s=30)
        assert replaced.created_at == first.created_at
        await clock.advance(61)
        assert [text for text, _ in handled] == ["cake", "cake"]
        await schedules.delete("tea")
        await clock.advance(120)
        assert len(handled) == 2
        for act in (schedules.get, schedules.delete, schedules.pause, schedules.trigger):
            with pytest.raises(UnknownSchedule):
                await act("tea")

    in_runtime(test)


def test_a_schedule_that_was_deleted_and_made_anew_makes_other_runs() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime, clock: ManualClock) -> None:
        begin = NOON + timedelta(minutes=1)
        for text in ("tea", "cake"):
            await manager.schedules.create(
                "x", prompt=text, agent=Bell, every_s=3600, starts_at=begin, grace_s=300
            )
            await clock.advance(0 if text == "cake" else 61)
            if text == "tea":
                await manager.schedules.delete("x")
        await clock.advance(3600)
        assert [text for text, _ in handled] == ["tea", "cake"]
        assert len(await runtime.store.list_runs()) == 2

    in_runtime(test)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "* * * * *", "every_s": 5}, "cron"),
        ({}, "cron"),
        ({"cron": "* * * * *", "timezone": "Europe/Atlantis"}, "timezone"),
        ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "timezone"),
        ({"every_s": 0.5}, "every_s"),
        ({"every_s": "often"}, "every_s"),
        ({"every_s": 60, "starts_at": datetime(2026, 1, 1)}, "starts_at"),  # noqa: DTZ001
        ({"every_s": 60, "ends_at": NOON - timedelta(days=1)}, "ends_at"),
        ({"every_s": 60, "missed": "some"}, "missed"),
        ({"every_s": 60, "missed": "all"}, "overlap"),
        ({"every_s": 60, "topic": "t"}, "topic"),
        ({"every_s": 60, "agent": "no agent"}, "agent"),
        ({"every_s": 60, "event": Rung(text="x")}, "prompt"),
        ({"every_s": 60, "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str) -> None:
    async def test(manager: ManagerClient, *_: object) -> None:
        given: dict[str, Any] = {"prompt": "x", "agent": "bell", **options}
        with pytest.raises(InvalidSchedule) as told:
            await manager.schedules.create("x", **given)
        assert told.value.field == field
        assert await manager.schedules.list() == []

    in_runtime(test)


def test_an_unknown_agent_is_told_at_once() -> None:
    async def test(manager: ManagerClient, *_: object) -> None:
        with pytest.raises(UnknownAgentType):
            await manager.schedules.create("x", prompt="x", agent="nobody", every_s=60)

    in_runtime(test)


def test_the_blocking_manager_has_the_same() -> None:
    def methods(cls: type) -> dict[str, Any]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(SyncSchedules) == methods(ScheduleClient)
    with LocalRuntime() as manager:
        manager.deploy(app)
        made = manager.schedules.create("tea", prompt="tea", agent="bell/hall", every_s=3600)
        assert [made] == manager.schedules.list()
        assert manager.schedules.pause("tea").status is ScheduleStatus.PAUSED
        assert manager.schedules.resume("tea").next_at == made.next_at
        manager.schedules.delete("tea")
