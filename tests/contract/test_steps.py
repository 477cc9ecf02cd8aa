"""Runs that are durable per step: each message has one effect, and the last one ends its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import CommitOutcome, Effects, Store
from agentray.store.steps import MAX_ERRORS, NewMessage, NewRunEvent, Step, StepCommitted
from tests.contract.samples import (
    ADA,
    admit_one,
    at,
    effects,
    end,
    host,
    lease,
    serve,
    state,
)

COMMITTED, FENCED, GONE = (
    CommitOutcome.COMMITTED,
    CommitOutcome.FENCED,
    CommitOutcome.GONE,
)
BOB = AgentId("greeter", "bob")
LEFT = ["greeter"], [0, 1]


def new(number: int = 0, agent: AgentId = ADA, slot: int = 0) -> NewMessage:
    """A message."""
    return NewMessage(agent, slot, f'{{"n":{number}}}', "[]")


def step(
    run_id: str, *, slot: int = 0, epoch: int = 1, n: int | None = None, **about: Any
) -> Effects:
    """Effects with a step; with `n`, they write a state, too."""
    states = [] if n is None else [state(n)]
    return effects(
        epoch, slot=slot, states=states, step=Step(run_id, about.pop("at", at(5)), **about)
    )


async def begin(store: Store, *messages: NewMessage, on_error: str = "fail", **about: Any) -> str:
    """Admit a run and let it begin with messages."""
    run_id = await admit_one(store)
    emitted = messages or (new(),)
    begins = step(run_id, begins=on_error, emitted=emitted, at=at(1), **about)
    await store.commit_steps("h1", [begins])
    return run_id


async def commit(store: Store, *batch: Effects, by: str = "h1") -> list[StepCommitted]:
    """Commit a batch."""
    return await store.commit_steps(by, batch)


def outcomes(committed: Sequence[StepCommitted]) -> list[CommitOutcome]:
    """What became of each."""
    return [each.outcome for each in committed]


async def n_of(store: Store) -> int | None:
    """The state that was written last."""
    found = (await store.load_states([ADA])).get(ADA)
    return found.state["n"] if found else None


async def left(store: Store) -> list[int]:
    """Numbers of the messages that are left, of whichever run."""
    return [message.number for message in await store.load_messages(*LEFT)]


@pytest.fixture(autouse=True)
async def served(store: Store) -> None:
    """A host with two slots."""
    await serve(store, slots=[0, 1])


async def test_a_step_is_one_transaction_and_the_last_one_ends_the_run(store: Store):
    run_id = await begin(store)
    told = NewRunEvent("event", at(2), {"a": [1]})

    (first,) = await commit(
        store, step(run_id, handled=1, n=1, emitted=[new(2), new(3, BOB, 1)], events=[told])
    )
    assert (first.outcome, first.numbers, first.events, first.end) == (COMMITTED, [2, 3], 1, None)
    assert await n_of(store) == 1
    kept = await store.load_messages(*LEFT)
    assert [(m.run_id, m.number, m.agent, m.event, m.about) for m in kept] == [
        (run_id, 2, ADA, '{"n":2}', "[]"),
        (run_id, 3, BOB, '{"n":3}', "[]"),
    ]

    second, third = await commit(
        store,
        step(run_id, handled=2, n=2, answer=({"x": 1.0},)),
        step(run_id, handled=3, slot=1, answer=("later",), at=at(9)),
    )
    ended = second.end or third.end
    assert ended is not None
    assert (ended.status, ended.result, ended.errors) == (RunStatus.SUCCEEDED, {"x": 1.0}, ())
    stored = await store.get_run(run_id)
    assert stored is not None
    assert (stored.run.status, stored.run.result) == (RunStatus.SUCCEEDED, {"x": 1.0})
    assert (stored.run.started_at, stored.run.finished_at) == (at(1), at(9))
    events = await store.run_events(run_id)
    assert [(e.offset, e.kind, e.data) for e in events] == [
        (0, "event", {"a": [1]}),
        (1, "succeeded", {"result": {"x": 1.0}}),
    ]
    assert events[1].time == at(9)
    assert stored.events == 2
    assert await left(store) == []


async def test_a_message_that_is_handled_twice_has_one_effect(store: Store):
    run_id = await begin(store, new(), new())
    twice = step(run_id, handled=1, n=1, emitted=[new()])

    assert outcomes(await commit(store, twice, twice)) == [COMMITTED, GONE]
    assert outcomes(await commit(store, step(run_id, handled=1, n=9))) == [GONE]
    assert outcomes(await commit(store, step(run_id, handled=0, n=9))) == [GONE]
    assert await n_of(store) == 1
    assert await left(store) == [2, 3]


async def test_a_run_begins_once(store: Store):
    run_id = await begin(store)
    again = step(run_id, begins="fail", emitted=[new()], n=9)
    assert outcomes(await commit(store, again)) == [GONE]
    await commit(store, step(run_id, handled=1))
    assert outcomes(await commit(store, again)) == [GONE]

    other = await admit_one(store)
    twice = step(other, begins="fail", emitted=[new()])
    assert outcomes(await commit(store, twice, twice)) == [COMMITTED, GONE]
    assert await left(store) == [1]
    assert outcomes(await commit(store, step("run_unknown", begins="fail"))) == [GONE]


async def test_a_former_holder_writes_nothing(store: Store):
    run_id = await begin(store)
    await store.put_host(host("h2"))
    await store.assign_slots([lease("h2")])

    late = step(run_id, handled=1, n=1, emitted=[new()])
    assert outcomes(await commit(store, late)) == [FENCED]
    beginning = step(await admit_one(store), begins="fail", emitted=[new()])
    assert outcomes(await commit(store, beginning)) == [FENCED]
    assert await left(store) == [1]
    assert outcomes(await commit(store, step(run_id, epoch=2, handled=1, n=2), by="h2")) == [
        COMMITTED
    ]
    assert await n_of(store) == 2
    assert outcomes(await commit(store, step(run_id, epoch=2, handled=1), by="h2")) == [GONE]
    assert outcomes(await commit(store, late)) == [FENCED]


@pytest.mark.parametrize("on_error", ["fail", "collect"])
async def test_errors_are_gathered_until_the_end(store: Store, on_error: str):
    run_id = await begin(store, new(), new(), new(), on_error=on_error)
    errors = [
        RunError(type="E", message=f"no \0 {n}", agent="greeter/ada", path=("a",)) for n in range(2)
    ]

    await commit(store, step(run_id, handled=1, errors=errors[:1]))
    await commit(store, step(run_id, handled=2, answer=(None,)))
    (last,) = await commit(store, step(run_id, handled=3, errors=errors[1:]))

    stored = await store.get_run(run_id)
    assert stored is not None
    assert last.end is not None
    succeeded = on_error == "collect"
    assert stored.run.status == (RunStatus.SUCCEEDED if succeeded else RunStatus.FAILED)
    assert last.end.errors == stored.run.errors == tuple(errors)
    (event,) = await store.run_events(run_id)
    told = [error.model_dump(mode="json") for error in errors]
    assert event.data == ({"result": None, "errors": told} if succeeded else {"error": told[0]})


async def test_more_errors_than_are_kept_are_counted(store: Store):
    run_id = await begin(store)
    error = RunError(type="E", message="no")
    await commit(store, step(run_id, handled=1, emitted=[new()], errors=[error] * 60))
    (last,) = await commit(store, step(run_id, handled=2, errors=[error] * 60))
    assert last.end is not None
    assert len(last.end.errors) == MAX_ERRORS + 1
    assert last.end.errors[-1].message == "20 more errors are not listed."


async def test_a_run_that_nobody_wants_ends_at_once(store: Store):
    run_id = await admit_one(store)
    nobody = RunError(type="NoHandler", message="nobody")
    (begun,) = await commit(store, step(run_id, begins="fail", errors=[nobody]))
    assert begun.end is not None
    assert begun.end.status == RunStatus.FAILED


async def test_what_is_emitted_after_the_closing_step_is_dropped(store: Store):
    run_id = await begin(store, new(), new(), new())
    batch = await commit(
        store,
        step(run_id, handled=1, emitted=[new()]),
        step(run_id, handled=2, emitted=[new()], closes=True, answer=(1,)),
        step(run_id, handled=3, n=3, emitted=[new(), new()]),
    )
    assert [each.numbers for each in batch] == [[4], [5], [None, None]]
    (later,) = await commit(store, step(run_id, handled=4, emitted=[new()]))
    assert (later.outcome, later.numbers) == (COMMITTED, [None])
    (last,) = await commit(store, step(run_id, handled=5, answer=(2,)))
    assert last.end is not None
    assert last.end.result == 1
    assert await n_of(store) == 3


async def test_messages_that_are_held_are_done_with_the_step_that_settles_them(store: Store):
    run_id = await begin(store, new(), new(), new())
    await commit(store, step(run_id, handled=1, holds=[1]))
    await commit(store, step(run_id, handled=1, holds=[1]))  # after a fail-over
    await commit(store, step(run_id, handled=2, holds=[1, 2]))
    assert await left(store) == [1, 2, 3]
    await commit(store, step(run_id, handled=3, settles=[1, 2], emitted=[new()]))
    assert await left(store) == [4]
    (last,) = await commit(store, step(run_id, handled=4))
    assert last.end is not None


async def test_a_run_ends_when_only_held_messages_are_left(store: Store):
    run_id = await begin(store, new(), new())
    await commit(store, step(run_id, handled=1, holds=[1]))
    (last,) = await commit(store, step(run_id, handled=2))
    assert last.end is not None
    assert await left(store) == []
    assert outcomes(await commit(store, step(run_id, handled=1))) == [GONE]


async def test_what_an_earlier_life_of_an_agent_held_is_to_be_handled_again(store: Store):
    run_id = await begin(store, new(), new(), new(agent=BOB))
    await commit(store, step(run_id, handled=1, holds=[1]), step(run_id, handled=3, holds=[3]))
    (one,) = await commit(store, step(run_id, handled=2, holds=[2]))
    assert one.end is None
    (both,) = await commit(store, step(run_id, handled=1, holds=[1, 2]))
    assert both.end is not None


async def test_holding_and_settling_may_share_a_batch(store: Store):
    run_id = await begin(store, new(), new(), new(agent=BOB), new(agent=BOB))
    await commit(
        store,
        step(run_id, handled=1, holds=[1]),
        step(run_id, handled=2, settles=[1]),
        step(run_id, handled=3, holds=[3]),
    )
    assert await left(store) == [3, 4]
    (last,) = await commit(store, step(run_id, handled=4, settles=[3], emitted=[new()]))
    assert last.end is None
    (last,) = await commit(store, step(run_id, handled=5))
    assert last.end is not None


async def test_what_is_emitted_without_a_message_belongs_to_the_run_until_its_end(store: Store):
    run_id = await begin(store)
    (emitted,) = await commit(store, step(run_id, n=1, emitted=[new()]))
    assert emitted.numbers == [2]
    await commit(store, step(run_id, handled=1), step(run_id, handled=2))
    (late,) = await commit(store, step(run_id, n=2, emitted=[new()]))
    assert (late.outcome, late.numbers) == (COMMITTED, [None])
    assert await n_of(store) == 2
    assert await left(store) == []


async def test_a_run_that_is_stopped_drops_its_messages(store: Store):
    run_id = await begin(store, new(), new())
    why = RunError(type="Cancelled", message="It was cancelled.")
    stopped = step(run_id, drops=RunStatus.CANCELLED, errors=[why], at=at(6))
    failed = step(run_id, handled=2, errors=[RunError(type="E", message="no")], answer=(1,))
    told = await commit(store, failed, stopped)
    assert outcomes(told) == [COMMITTED, COMMITTED]
    ended = told[0].end or told[1].end
    assert ended is not None
    assert (ended.status, ended.result, ended.errors) == (RunStatus.CANCELLED, None, (why,))
    assert await left(store) == []
    assert outcomes(await commit(store, step(run_id, handled=1, n=1))) == [GONE]
    assert outcomes(await commit(store, stopped)) == [GONE]
    (stored,) = await store.settled_runs([run_id, "run_unknown"])
    assert (stored.run.status, stored.run.errors) == (RunStatus.CANCELLED, (why,))
    assert [e.kind for e in await store.run_events(run_id)] == ["cancelled"]


@pytest.mark.parametrize("failed", [False, True])
async def test_a_run_that_is_finished_early_keeps_what_it_has_come_to(store: Store, failed: bool):
    run_id = await begin(store, new(), new())
    errors = [RunError(type="E", message="no")] if failed else []
    await commit(store, step(run_id, handled=1, answer=(1,), closes=True, errors=errors))
    (finished,) = await commit(store, step(run_id, drops=RunStatus.SUCCEEDED))
    assert finished.end is not None
    status = RunStatus.FAILED if failed else RunStatus.SUCCEEDED
    assert (finished.end.status, finished.end.errors) == (status, tuple(errors))
    assert finished.end.result == (None if failed else 1)
    assert await left(store) == []


async def test_a_run_is_stopped_before_it_has_begun(store: Store):
    run_id = await admit_one(store)
    (stopped,) = await commit(store, step(run_id, drops=RunStatus.DEAD))
    assert stopped.end is not None
    assert stopped.end.status == RunStatus.DEAD
    assert outcomes(await commit(store, step(run_id, begins="fail"))) == [GONE]


async def test_messages_are_read_in_pages_and_for_some_agents(store: Store):
    poet = AgentId("poet", "ada")
    run_id = await begin(store, *(new(n) for n in range(5)), new(0, BOB, 1), new(0, poet))
    pages: list[int] = []
    after = ("", 0)
    while page := await store.load_messages(["greeter"], [0], after=after, limit=2):
        pages += [message.number for message in page]
        after = (page[-1].run_id, page[-1].number)
    assert pages == [1, 2, 3, 4, 5]
    assert after == (run_id, 5)
    assert [m.number for m in await store.load_messages(["greeter"], [1])] == [6]
    assert [m.agent for m in await store.load_messages(["poet"], [0, 1])] == [poet]


async def test_attempts_are_the_hosts_that_had_begun_a_message_and_lost_it(store: Store):
    run_id = await begin(store, new(), new())
    await store.put_host(host("h2"))
    one = (run_id, 1)
    assert await store.begin_messages("h1", [one, (run_id, 9)]) == {one: 0}
    assert await store.begin_messages("h2", [one]) == {one: 1}
    assert await store.begin_messages("h1", [one]) == {one: 2}
    assert await store.begin_messages("h1", [one, (run_id, 2)]) == {one: 2, (run_id, 2): 0}
    assert [m.attempts for m in await store.load_messages(*LEFT)] == [2, 0]


async def test_what_cannot_be_kept_changes_nothing(store: Store):
    run_id = await begin(store)
    wrong = step(run_id, handled=1, n=1, answer=({1, 2},))
    with pytest.raises(PayloadError):
        await commit(store, step(run_id, emitted=[new()]), wrong)
    assert await n_of(store) is None
    assert await left(store) == [1]


async def test_a_batch_may_mix_steps_and_plain_effects(store: Store):
    run_id = await begin(store)
    other = await admit_one(store)
    plain = effects(states=[state(7)], end=end(other))
    told = await commit(store, step(run_id, handled=1, n=5), plain, effects(epoch=9))
    assert outcomes(told) == [COMMITTED, COMMITTED, FENCED]
    assert await n_of(store) == 7
    assert await store.commit_steps("h1", []) == []
