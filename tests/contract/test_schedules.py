"""Schedules, and runs that begin later."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from agentray.errors import PayloadError
from agentray.protocol.runs import RunStatus
from agentray.protocol.schedules import Schedule, ScheduleSpec, ScheduleStatus
from agentray.protocol.webhooks import WebhookEvent, WebhookSpec
from agentray.store.base import NewRun, Store
from agentray.store.postgres import PostgresStore
from agentray.store.schedules import DuePlace
from tests.contract.samples import T0, at, effects, end, new_run, serve


def schedule(schedule_id: str = "nightly", **fields: Any) -> Schedule:
    defaults: dict[str, Any] = {
        "status": ScheduleStatus.ACTIVE,
        "spec": ScheduleSpec(prompt="hi", agent="greeter", cron="0 0 * * *"),
        "next_at": at(60),
        "created_at": T0,
        "updated_at": T0,
        "uid": "sched_1",
    }
    return Schedule(id=schedule_id, **{**defaults, **fields})


async def due_ids(store: Store, now: datetime, **more: Any) -> list[str]:
    return [stored.run.id for stored in await store.due_runs(now, **more)]


# Runs that begin later


async def test_a_delayed_run_is_queued_with_its_time(store: Store):
    new = new_run(not_before=at(60), schedule="nightly")
    (admission,) = await store.admit([new])

    stored = await store.get_run(new.id)

    assert stored is not None
    assert stored.run == admission.run
    assert (stored.run.status, stored.run.not_before) == (RunStatus.QUEUED, at(60))
    assert stored.run.schedule == "nightly"
    assert await store.list_runs() == [stored.run]
    assert await store.list_runs(status=RunStatus.QUEUED) == [stored.run]


async def test_delayed_runs_are_due_at_their_time_in_order(store: Store):
    late, early, other = (new_run(not_before=at(s)) for s in (60, 30, 30))
    now = new_run()
    await store.admit([late, early, other, now])

    assert await due_ids(store, at(29)) == []
    assert await due_ids(store, at(30)) == [early.id, other.id]
    assert await due_ids(store, at(99)) == [early.id, other.id, late.id]
    assert await due_ids(store, at(99), limit=1) == [early.id]
    assert await due_ids(store, at(99), after=DuePlace(at(30), early.id)) == [other.id, late.id]
    assert await store.next_due(T0) == at(30)
    assert await store.next_due(at(30)) == at(60)
    assert await store.next_due(at(60)) is None


async def test_a_delayed_run_is_not_left_over_and_its_first_attempt_is_the_first(store: Store):
    new = new_run(not_before=at(60))
    await store.admit([new])
    assert await store.unfinished_runs(created_before=at(1000)) == []

    begun = await store.retry_run(new.id)

    assert begun is not None
    assert (begun.run.attempt, begun.run.not_before) == (1, at(60))
    assert await due_ids(store, at(99)) == []
    assert [s.run.id for s in await store.unfinished_runs(created_before=at(99))] == [new.id]
    again = await store.retry_run(new.id)
    assert again is not None
    assert again.run.attempt == 2


async def test_a_delayed_run_that_was_cancelled_is_not_due(store: Store):
    await serve(store)
    new = new_run(not_before=at(60))
    await store.admit([new])
    await store.commit("h1", [effects(end=end(new.id, RunStatus.CANCELLED))])

    assert await due_ids(store, at(99)) == []
    assert await store.next_due(T0) is None


async def test_runs_in_turn_are_due_when_the_earlier_ones_have_ended(store: Store):
    await serve(store)
    first, second, third = (
        new_run(not_before=at(n), schedule="nightly", in_turn=True) for n in range(3)
    )
    beside = new_run(not_before=at(3), schedule="hourly", in_turn=True)
    await store.admit([third, second, first, beside])

    assert await due_ids(store, at(99)) == [first.id, beside.id]
    await store.retry_run(first.id)
    assert await due_ids(store, at(99)) == [beside.id]
    await store.commit("h1", [effects(end=end(first.id))])
    assert await due_ids(store, at(99)) == [second.id, beside.id]
    assert await store.unfinished_of_schedule("nightly") == 2


# Schedules


async def test_a_schedule_comes_back_as_it_was(store: Store):
    made = schedule()
    assert await store.write_schedule(made, revision=None)
    assert await store.get_schedule(made.id) == made
    assert await store.get_schedule("other") is None


async def test_an_id_is_taken_once(store: Store):
    assert await store.write_schedule(schedule(), revision=None)
    assert not await store.write_schedule(schedule(uid="sched_2"), revision=None)
    found = await store.get_schedule("nightly")
    assert found is not None
    assert found.uid == "sched_1"


async def test_schedules_are_listed_in_the_order_of_their_ids(store: Store):
    for name in ("c", "a", "b"):
        await store.write_schedule(schedule(name), revision=None)
    assert [found.id for found in await store.list_schedules()] == ["a", "b", "c"]
    assert [found.id for found in await store.list_schedules(after="a", limit=1)] == ["b"]


async def test_a_deleted_schedule_leaves_its_runs(store: Store):
    run = new_run(not_before=at(60), schedule="nightly")
    await store.write_schedule(schedule(), revision=None, runs=[run])
    assert await store.delete_schedule("nightly")
    assert not await store.delete_schedule("nightly")
    assert await store.get_schedule("nightly") is None
    assert await store.get_run(run.id) is not None
    assert not await store.write_schedule(schedule(revision=2), revision=1)


async def test_schedules_are_due_in_order_unless_they_have_no_time(store: Store):
    for name, seconds in (("late", 60), ("early", 30), ("also", 30)):
        await store.write_schedule(schedule(name, next_at=at(seconds)), revision=None)
    await store.write_schedule(schedule("paused", next_at=None), revision=None)

    assert [s.id for s in await store.due_schedules(at(30))] == ["also", "early"]
    assert [s.id for s in await store.due_schedules(at(99), limit=1)] == ["also"]
    after = DuePlace(at(30), "early")
    assert [s.id for s in await store.due_schedules(at(99), after=after)] == ["late"]
    assert await store.next_due(T0) == at(30)


def firing() -> tuple[Schedule, NewRun]:
    fired = schedule(revision=2, next_at=at(120), fired=1)
    return fired, new_run(f"run_{fired.uid}_60", not_before=at(60), schedule=fired.id)


async def test_a_firing_and_the_move_to_the_next_time_are_one(store: Store):
    await store.write_schedule(schedule(), revision=None)
    fired, run = firing()

    assert await store.write_schedule(fired, revision=1, runs=[run])

    assert await store.get_schedule("nightly") == fired
    assert await due_ids(store, at(60)) == [run.id]
    assert await store.due_schedules(at(60)) == []


async def test_the_webhook_of_a_firing_is_kept_with_its_run_once(store: Store):
    hook = WebhookSpec(url="https://example.com/hook", events=[WebhookEvent.FAILED], secret="s")
    told = {"prompt": "hi", "agent": "greeter", "cron": "0 0 * * *", "webhook": hook}
    hooked = schedule(spec=ScheduleSpec.model_validate(told), owner="key_1@acme")
    await store.write_schedule(hooked, revision=None)
    assert await store.get_schedule("nightly") == hooked
    _, run = firing()
    more = new_run("run_by_hand", schedule=hooked.id)
    fired = hooked.model_copy(update={"revision": 2, "fired": 2})

    assert not await store.write_schedule(fired, revision=7, runs=[run])
    assert await store.list_webhooks() == []
    assert await store.write_schedule(fired, revision=1, runs=[run, more])
    again = hooked.model_copy(update={"revision": 3})
    assert await store.write_schedule(again, revision=2, runs=[run])

    kept = await store.list_webhooks(tenant="acme")
    assert {each.run_id for each in kept} == {run.id, more.id}
    assert {(each.url, each.secret) for each in kept} == {(hook.url, "s")}
    assert all(each.events == [WebhookEvent.FAILED] for each in kept)
    assert len({each.id for each in kept}) == 2
    assert await store.list_webhooks(tenant="") == []


async def test_who_has_read_an_old_revision_changes_nothing_and_makes_no_run(store: Store):
    await store.write_schedule(schedule(), revision=None)
    paused = schedule(revision=2, next_at=None, status=ScheduleStatus.PAUSED)
    await store.write_schedule(paused, revision=1)
    fired, run = firing()

    assert not await store.write_schedule(fired, revision=1, runs=[run])

    assert await store.get_schedule("nightly") == paused
    assert await store.get_run(run.id) is None


async def test_a_run_that_cannot_be_kept_leaves_the_schedule_as_it_was(store: Store):
    await store.write_schedule(schedule(), revision=None)
    fired, run = firing()
    bad = new_run(not_before=at(60), owner="a\0b")

    with pytest.raises(PayloadError):
        await store.write_schedule(fired, revision=1, runs=[run, bad])

    assert await store.get_schedule("nightly") == schedule()
    assert await store.get_run(run.id) is None


async def test_of_many_that_fire_at_once_one_does(postgres: PostgresStore):
    await postgres.write_schedule(schedule(), revision=None)
    fired, run = firing()

    done = await asyncio.gather(
        *(postgres.write_schedule(fired, revision=1, runs=[run]) for _ in range(8))
    )

    assert sorted(done) == [False] * 7 + [True]
    assert await due_ids(postgres, at(60)) == [run.id]
