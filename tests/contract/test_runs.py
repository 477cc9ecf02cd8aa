"""Runs: admission, lists, attempts and events."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import EndedRun, Store
from tests.contract.samples import (
    ADA,
    T0,
    admit_one,
    at,
    effects,
    end,
    events,
    new_run,
    serve,
)


async def test_an_admitted_run_is_queued_and_can_be_read(store: Store):
    new = new_run(slot=7, owner="key_1", input={"text": "hi"})

    (admission,) = await store.admit([new])

    stored = await store.get_run(new.id)
    assert admission.created
    assert not admission.conflict
    assert stored is not None
    assert stored.run == admission.run
    assert stored.run.status is RunStatus.QUEUED
    assert (stored.run.agent, stored.run.attempt) == ("greeter/ada", 1)
    assert (stored.run.created_at, stored.run.started_at) == (T0, None)
    assert (stored.agent, stored.pool, stored.slot) == (ADA, "default", 7)
    assert (stored.input, stored.events, stored.owner) == ({"text": "hi"}, 0, "key_1")


async def test_an_unknown_run_is_none(store: Store):
    assert await store.get_run("run_0") is None
    assert await store.run_events("run_0") == []
    assert await store.retry_run("run_0") is None


async def test_nothing_is_admitted_from_an_empty_batch(store: Store):
    assert await store.admit([]) == []


async def test_an_admission_may_be_repeated_after_a_lost_answer(store: Store):
    new = new_run()
    await store.admit([new])

    first, second = await store.admit([new, new_run()])

    assert (first.run.id, first.created, first.conflict) == (new.id, False, False)
    assert second.created


async def test_a_repeated_key_finds_the_earlier_run(store: Store):
    first = new_run(idempotency_key="k", digest="d")
    await store.admit([first])

    (again,) = await store.admit([new_run(idempotency_key="k", digest="d")])

    assert (again.run.id, again.created, again.conflict) == (first.id, False, False)


async def test_a_repeated_key_shows_the_run_as_it_is_now(store: Store):
    await serve(store)
    run_id = await admit_one(store, idempotency_key="k")
    await store.commit("h1", [effects(end=end(run_id))])

    (again,) = await store.admit([new_run(idempotency_key="k")])

    assert again.run.status is RunStatus.SUCCEEDED
    assert again.run.result == {"answer": 42}


async def test_a_key_with_another_body_is_a_conflict(store: Store):
    first = new_run(idempotency_key="k", digest="d1")
    await store.admit([first])

    other = new_run(idempotency_key="k", digest="d2")
    (again,) = await store.admit([other])

    assert (again.run.id, again.created, again.conflict) == (first.id, False, True)
    assert await store.get_run(other.id) is None


async def test_keys_of_other_owners_are_other_keys(store: Store):
    runs = [new_run(idempotency_key="k", owner=owner) for owner in ("a", "b", "")]
    assert [admission.created for admission in await store.admit(runs)] == [True, True, True]


async def test_a_repeat_within_a_batch_is_found(store: Store):
    runs = [new_run(idempotency_key="k", digest=digest) for digest in ("d", "d", "x")]

    first, second, third = await store.admit([*runs])

    assert first.created
    assert (second.run.id, second.created, second.conflict) == (runs[0].id, False, False)
    assert (third.run.id, third.created, third.conflict) == (runs[0].id, False, True)


async def test_a_key_may_be_used_anew_after_a_day(store: Store):
    old = new_run(idempotency_key="k", digest="d1")
    await store.admit([old])
    just_in_time = new_run(idempotency_key="k", digest="d1", created_at=T0 + timedelta(hours=24))
    (known,) = await store.admit([just_in_time])
    late = T0 + timedelta(hours=24, seconds=1)
    new = new_run(idempotency_key="k", digest="d2", created_at=late)

    created, repeated = await store.admit(
        [new, new_run(idempotency_key="k", digest="d2", created_at=late)]
    )

    assert not known.created
    assert (created.run.id, created.created) == (new.id, True)
    assert (repeated.run.id, repeated.created) == (new.id, False)
    assert await store.get_run(old.id) is not None


@pytest.mark.parametrize("field", ["correlation_id", "idempotency_key", "owner"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_a_text_that_cannot_be_stored_admits_nothing(store: Store, field: str, text: str):
    good = new_run()
    with pytest.raises(PayloadError):
        await store.admit([good, new_run(**{field: text})])
    assert await store.get_run(good.id) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
async def test_an_input_without_json_admits_nothing(store: Store, value: object):
    good = new_run()
    with pytest.raises(PayloadError):
        await store.admit([good, new_run(input={"value": value})])
    assert await store.get_run(good.id) is None


async def test_json_comes_back_as_it_was(store: Store):
    value = {"z": 1, "a": [1e16, 1.0, 2**70, -0.0], "nul": "a\0b", "half": "\ud800", "e": "é😀"}
    run_id = await admit_one(store, input=value)

    stored = await store.get_run(run_id)

    assert stored is not None
    assert stored.input == value
    assert list(stored.input) == list(value)
    assert [type(n) for n in stored.input["a"]] == [float, float, int, float]


async def test_what_is_handed_in_is_not_shared(store: Store):
    given = {"words": ["a"]}
    run_id = await admit_one(store, input=given)

    given["words"].append("b")
    read = await store.get_run(run_id)
    assert read is not None
    read.input["words"].append("c")

    again = await store.get_run(run_id)
    assert again is not None
    assert again.input == {"words": ["a"]}


async def test_runs_are_listed_newest_first_in_pages(store: Store):
    ids = [await admit_one(store) for _ in range(5)]

    first = await store.list_runs(limit=2)
    second = await store.list_runs(limit=2, before=first[-1].id)
    last = await store.list_runs(limit=2, before=second[-1].id)

    assert [run.id for run in [*first, *second, *last]] == ids[::-1]


async def test_runs_are_listed_by_status_and_agent_type(store: Store):
    await serve(store)
    ended = await admit_one(store)
    queued = await admit_one(store)
    other = await admit_one(store, agent=AgentId("poet", "x/y"))
    await store.commit("h1", [effects(end=end(ended))])

    async def listed(status: RunStatus | None = None, agent_type: str | None = None) -> list[str]:
        return [run.id for run in await store.list_runs(status=status, agent_type=agent_type)]

    assert await listed(status=RunStatus.SUCCEEDED) == [ended]
    assert await listed(status=RunStatus.QUEUED) == [other, queued]
    assert await listed(status=RunStatus.FAILED) == []
    assert await listed(agent_type="poet") == [other]
    assert await listed(status=RunStatus.QUEUED, agent_type="greeter") == [queued]
    for status in (None, RunStatus.QUEUED):
        mine = await store.list_runs(status=status, agent_type="poet", agent_key="x/y")
        assert [run.id for run in mine] == [other]
        assert await store.list_runs(status=status, agent_type="poet", agent_key="x") == []
    assert await store.count_runs() == {RunStatus.SUCCEEDED: 1, RunStatus.QUEUED: 2}


async def test_only_queued_runs_start_running(store: Store):
    await serve(store)
    queued, running, ended = [await admit_one(store) for _ in range(3)]
    await store.mark_running({running: at(1)}, "h1")
    await store.commit("h1", [effects(end=end(ended, started_at=None))])

    await store.mark_running(dict.fromkeys([queued, running, ended, "run_none"], at(5)), "h2")

    found = [await store.get_run(run_id) for run_id in (queued, running, ended)]
    assert [f.run.status.value for f in found if f] == ["running", "running", "succeeded"]
    assert [f.run.started_at for f in found if f] == [at(5), at(1), None]


async def test_a_retry_counts_the_attempt_and_queues_again(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.mark_running({run_id: at(1)}, "h1")
    await store.commit("h1", [effects(events={run_id: events(0, 3)})])

    retried = await store.retry_run(run_id)

    assert retried is not None
    assert (retried.run.status, retried.run.attempt) == (RunStatus.QUEUED, 2)
    assert (retried.run.started_at, retried.events) == (None, 3)
    assert await store.get_run(run_id) == retried


async def test_an_ended_run_is_not_retried(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(end=end(run_id))])
    ended = await store.get_run(run_id)

    assert await store.retry_run(run_id) == ended
    assert await store.get_run(run_id) == ended


async def test_unfinished_runs_come_oldest_first(store: Store):
    await serve(store)
    young = await admit_one(store, created_at=at(9))
    running = await admit_one(store, created_at=at(2), slot=1)
    old = await admit_one(store, created_at=at(1), slot=2)
    elsewhere = await admit_one(store, created_at=at(3), slot=1, pool="gpu")
    ended = await admit_one(store)
    await store.commit("h1", [effects(end=end(ended))])
    await store.mark_running({running: at(4)}, "h1")

    async def found(
        pool: str | None = None, slots: list[int] | None = None, limit: int = 10
    ) -> list[str]:
        runs = await store.unfinished_runs(
            created_before=at(9), pool=pool, slots=slots, limit=limit
        )
        return [stored.run.id for stored in runs]

    assert await found() == [old, running, elsewhere]
    assert await found(limit=1) == [old]
    assert await found(pool="default") == [old, running]
    assert await found(slots=[1]) == [running, elsewhere]
    assert await found(pool="gpu", slots=[1, 2]) == [elsewhere]
    assert await found(slots=[]) == []
    assert young not in await found()


async def test_events_are_read_from_any_offset_on(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    all_events = events(0, 10)
    for first, last in ((0, 1), (1, 4), (4, 10)):
        await store.commit("h1", [effects(events={run_id: all_events[first:last]})])

    for after in range(-1, 11):
        assert await store.run_events(run_id, after=after) == all_events[after + 1 :]
        assert await store.run_events(run_id, after=after, limit=2) == all_events[after + 1 :][:2]


# Runs that are kept at their end only


async def test_a_run_that_is_kept_at_its_end_is_there_with_its_events_and_errors(store: Store):
    new = new_run(slot=7, owner="driver", input={"event": {"n": 1}})
    error = RunError(type="ValueError", message="bad", agent="a/1", path=("X at a/1",))
    failed = end(new.id, RunStatus.FAILED, result=None, error=error, errors=[error, error])

    await store.keep_ended([EndedRun(new, failed, events(0, 3))])

    stored = await store.get_run(new.id)
    assert stored is not None
    assert stored.run.status is RunStatus.FAILED
    assert (stored.run.error, stored.run.errors) == (error, (error, error))
    assert (stored.run.started_at, stored.run.finished_at) == (at(1), at(2))
    assert (stored.input, stored.events, stored.slot) == ({"event": {"n": 1}}, 3, 7)
    assert await store.run_events(new.id) == events(0, 3)
    assert new.id not in {r.run.id for r in await store.unfinished_runs(created_before=at(9))}


async def test_errors_of_a_run_that_succeeded_all_the_same_are_kept(store: Store):
    new = new_run()
    error = RunError(type="ValueError", message="bad")
    await store.keep_ended([EndedRun(new, end(new.id, errors=[error]))])

    stored = await store.get_run(new.id)
    assert stored is not None
    assert (stored.run.status, stored.run.error) == (RunStatus.SUCCEEDED, None)
    assert stored.run.errors == (error,)
    assert await store.run_events(new.id) == []


async def test_a_run_that_is_known_stays_as_it_is(store: Store):
    new = new_run()
    await store.admit([new])
    other = new_run()

    await store.keep_ended(
        [EndedRun(run, end(run.id), events(0, 1)) for run in (new, other, other)]
    )

    known, kept = await store.get_run(new.id), await store.get_run(other.id)
    assert known is not None
    assert kept is not None
    assert (known.run.status, known.events) == (RunStatus.QUEUED, 0)
    assert (kept.run.status, kept.events) == (RunStatus.SUCCEEDED, 1)


async def test_what_has_not_ended_or_has_a_gap_is_not_kept(store: Store):
    one, other = new_run(), new_run()
    for ended in (
        EndedRun(other, end(other.id, RunStatus.RUNNING)),
        EndedRun(other, end(other.id), events(1, 1)),
    ):
        with pytest.raises(ValueError, match=other.id):
            await store.keep_ended([EndedRun(one, end(one.id)), ended])
    assert await store.get_run(one.id) is None
    await store.keep_ended([])
