"""Ends of runs that no host makes: cancellations and deadlines, in both stores."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentray.core.lifecycle import UNFINISHED
from agentray.errors import IllegalTransition
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import CommitOutcome, Store
from agentray.store.run_ends import UnworkedEnd
from tests.contract.samples import admit_one, at, effects, end, events, serve

WHY = RunError(type="TimedOut", message="It took longer than 5 s.")
QUEUED = (RunStatus.QUEUED,)


def timed_out(run_id: str) -> UnworkedEnd:
    return UnworkedEnd(run_id, RunStatus.TIMED_OUT, WHY, at(9))


async def test_an_unworked_run_ends_with_its_error_and_a_last_event(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(events={run_id: events(0, 2)})])

    (ended,) = await store.end_unworked([timed_out(run_id)], QUEUED)

    stored = await store.get_run(run_id)
    assert stored is not None
    assert stored.run == ended
    assert (ended.status, ended.error, ended.finished_at) == (RunStatus.TIMED_OUT, WHY, at(9))
    told = await store.run_events(run_id)
    assert [event.offset for event in told] == [0, 1, 2]
    assert (told[-1].kind, told[-1].time) == ("timed_out", at(9))
    assert told[-1].data == {"error": WHY.model_dump(mode="json")}


async def test_nothing_is_written_for_a_run_that_was_ended_so(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.end_unworked([timed_out(run_id)], QUEUED)

    outcomes = await store.commit(
        "h1", [effects(end=end(run_id)), effects(events={run_id: events(1, 1)})]
    )

    assert outcomes == [CommitOutcome.ALREADY_ENDED] * 2
    assert await store.end_unworked([timed_out(run_id)], UNFINISHED) == []
    assert len(await store.run_events(run_id)) == 1
    retried = await store.retry_run(run_id)
    assert retried is not None
    assert (retried.run.status, retried.run.attempt) == (RunStatus.TIMED_OUT, 1)


async def test_only_runs_of_the_named_statuses_are_ended(store: Store):
    running, queued = await admit_one(store), await admit_one(store)
    await store.mark_running({running: at(1)}, "h1")

    ended = await store.end_unworked([timed_out(running), timed_out(queued)], QUEUED)

    assert [run.id for run in ended] == [queued]
    stored = await store.get_run(running)
    assert stored is not None
    assert stored.run.status is RunStatus.RUNNING


async def test_unknown_runs_are_left_alone(store: Store):
    assert await store.end_unworked([timed_out("run_0")], UNFINISHED) == []
    assert await store.end_unworked([], UNFINISHED) == []


async def test_an_end_that_the_lifecycle_does_not_know_writes_nothing(store: Store):
    run_id = await admit_one(store)
    succeeded = UnworkedEnd(run_id, RunStatus.SUCCEEDED, WHY, at(9))
    with pytest.raises(IllegalTransition):
        await store.end_unworked([timed_out(run_id), succeeded], QUEUED)
    stored = await store.get_run(run_id)
    assert stored is not None
    assert stored.run.status is RunStatus.QUEUED


async def test_overdue_runs_are_found_by_their_deadline(store: Store):
    first = await admit_one(store, input={"prompt": "a", "timeout_s": 5.0})
    later = await admit_one(store, input={"prompt": "b", "timeout_s": 9.5})
    working = await admit_one(store, input={"prompt": "c", "timeout_s": 4})
    await admit_one(store, input={"prompt": "d"})
    ended = await admit_one(store, input={"prompt": "e", "timeout_s": 1})
    await store.mark_running({working: at(1)}, "h1")
    await store.end_unworked([timed_out(ended)], QUEUED)

    async def overdue(seconds: float, *statuses: RunStatus) -> list[str]:
        return [each.run.id for each in await store.overdue_runs(at(seconds), statuses)]

    assert await overdue(5.0, RunStatus.QUEUED) == []
    assert await overdue(5.1, RunStatus.QUEUED) == [first]
    assert await overdue(99, RunStatus.QUEUED, RunStatus.WAITING) == [first, later]
    assert await overdue(99, *UNFINISHED) == [working, first, later]
    assert len(await store.overdue_runs(at(99), UNFINISHED, limit=2)) == 2


async def test_a_deadline_holds_across_attempts(store: Store):
    run_id = await admit_one(store, input={"prompt": "a", "timeout_s": 5})
    await store.retry_run(run_id)
    (overdue,) = await store.overdue_runs(at(6), QUEUED)
    assert (overdue.run.id, overdue.run.attempt) == (run_id, 2)


async def test_the_wish_to_cancel_is_kept_with_the_run(store: Store):
    run_id, other = await admit_one(store), await admit_one(store)

    asked = await store.request_cancel(run_id, at(3))
    again = await store.request_cancel(run_id, at(7))

    assert asked is not None
    assert asked == again
    assert (asked.run.status, asked.cancelled) == (RunStatus.QUEUED, True)
    retried, untouched = await store.retry_run(run_id), await store.get_run(other)
    assert retried is not None
    assert retried.cancelled
    assert untouched is not None
    assert not untouched.cancelled
    assert await store.uncancelled_runs(at(3)) == []
    assert [each.run.id for each in await store.uncancelled_runs(at(4))] == [run_id]


async def test_a_run_that_has_ended_cannot_be_wished_away(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(end=end(run_id))])

    asked = await store.request_cancel(run_id, at(3))

    assert asked is not None
    assert (asked.run.status, asked.cancelled) == (RunStatus.SUCCEEDED, False)
    assert await store.uncancelled_runs(at(9) + timedelta(days=1)) == []
    assert await store.request_cancel("run_0", at(3)) is None
