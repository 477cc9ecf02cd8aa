"""Commits of hosts: all or nothing, once, and only by the host that leases the slot."""

from __future__ import annotations

import pytest

from agentray.errors import PayloadError, UnknownRun
from agentray.ids import AgentId
from agentray.protocol.runs import RunError, RunEvent, RunStatus
from agentray.store.base import CommitOutcome, RunEnd, StateWrite, Store
from tests.contract.samples import (
    ADA,
    T0,
    admit_one,
    at,
    effects,
    end,
    events,
    host,
    lease,
    serve,
    state,
)

COMMITTED, FENCED, ALREADY_ENDED = (
    CommitOutcome.COMMITTED,
    CommitOutcome.FENCED,
    CommitOutcome.ALREADY_ENDED,
)
BOB = AgentId("greeter", "bob")


async def state_of(store: Store, agent: AgentId = ADA) -> int | None:
    found = (await store.load_states([agent])).get(agent)
    return found.state["n"] if found else None


async def test_one_commit_writes_state_events_and_end(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    error = RunError(type="E", message="no \0 luck", agent="greeter/ada", path=("a", "b"))
    failed = end(run_id, RunStatus.FAILED, error=error, result=None)

    outcomes = await store.commit(
        "h1", [effects(states=[state(1)], events={run_id: events(0, 2)}, end=failed)]
    )

    stored = await store.get_run(run_id)
    assert outcomes == [COMMITTED]
    assert stored is not None
    assert (stored.run.status, stored.run.error) == (RunStatus.FAILED, error)
    assert (stored.run.started_at, stored.run.finished_at) == (at(1), at(2))
    assert stored.events == 2
    assert await store.run_events(run_id) == events(0, 2)
    assert await state_of(store) == 1


async def test_nothing_is_committed_from_an_empty_batch(store: Store):
    assert await store.commit("h1", []) == []


async def test_effects_without_anything_still_tell_of_the_fence(store: Store):
    await serve(store)
    assert await store.commit("h1", [effects(), effects(epoch=2)]) == [COMMITTED, FENCED]


async def test_states_are_replaced_with_their_schema_version(store: Store):
    await serve(store)
    new = StateWrite(ADA, {"n": 2, "text": "\0"}, schema_version=3)
    await store.commit("h1", [effects(states=[state(1), state(5, BOB)])])
    await store.commit("h1", [effects(states=[new])])

    nobody = AgentId("poet", "ada")
    assert await store.load_states([ADA, BOB, nobody]) == {ADA: new, BOB: state(5, BOB)}
    assert await store.load_states([]) == {}


async def test_the_last_state_of_a_batch_wins(store: Store):
    await serve(store)
    batch = [effects(states=[state(1), state(2)]), effects(states=[state(3)])]
    await store.commit("h1", [*batch, effects(epoch=9, states=[state(4)])])
    assert await state_of(store) == 3


@pytest.mark.parametrize("status", ["starting", "live", "draining"])
async def test_every_host_that_is_not_dead_may_commit(store: Store, status: str):
    await serve(store)
    await store.put_host(host(status=status))
    assert await store.commit("h1", [effects(states=[state(1)])]) == [COMMITTED]


async def test_a_host_is_fenced_unless_it_leases_the_slot_with_the_epoch(store: Store):
    await serve(store, slots=[0, 1])
    await store.put_host(host("h2"))
    mine = effects(states=[state(1)])

    assert await store.commit("h2", [mine]) == [FENCED]
    assert await store.commit("nobody", [mine, mine]) == [FENCED, FENCED]
    wrong = [effects(epoch=0), effects(epoch=2), effects(slot=2), effects(slot=1)]
    assert await store.commit("h1", wrong) == [FENCED, FENCED, FENCED, COMMITTED]
    assert await state_of(store) is None


async def test_a_dead_host_never_commits(store: Store):
    await serve(store)
    await store.assign_slots([], dead_hosts={"h1": "killed"})
    await store.put_host(host("h1", "live"))
    assert await store.commit("h1", [effects(states=[state(1)])]) == [FENCED]


async def test_a_former_holder_is_fenced(store: Store):
    await serve(store)
    await store.put_host(host("h2"))
    await store.assign_slots([lease("h2")])

    assert await store.commit("h1", [effects(epoch=1), effects(epoch=2)]) == [FENCED, FENCED]
    assert await store.commit("h2", [effects(epoch=1), effects(epoch=2)]) == [FENCED, COMMITTED]


async def test_a_run_ends_once(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(end=end(run_id))])
    ended = await store.get_run(run_id)

    again = effects(states=[state(1)], end=end(run_id, RunStatus.CANCELLED))

    assert await store.commit("h1", [again, again]) == [ALREADY_ENDED, ALREADY_ENDED]
    assert await store.get_run(run_id) == ended
    assert await state_of(store) is None


async def test_a_run_ends_once_within_a_batch(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    batch = [
        effects(events={run_id: events(0, 1)}),
        effects(events={run_id: events(1, 2)}, end=end(run_id)),
        effects(states=[state(1)], end=end(run_id, RunStatus.TIMED_OUT)),
        effects(states=[state(2)]),
    ]

    outcomes = await store.commit("h1", batch)

    stored = await store.get_run(run_id)
    assert outcomes == [COMMITTED, COMMITTED, ALREADY_ENDED, COMMITTED]
    assert stored is not None
    assert (stored.run.status, stored.events) == (RunStatus.SUCCEEDED, 3)
    assert await store.run_events(run_id) == events(0, 3)
    assert await state_of(store) == 2


async def test_effects_on_several_runs_are_all_or_nothing(store: Store):
    await serve(store)
    ended, other = [await admit_one(store) for _ in range(2)]
    await store.commit("h1", [effects(end=end(ended))])

    both = effects(states=[state(1)], events={other: events(0, 2)}, end=end(ended))

    assert await store.commit("h1", [both]) == [ALREADY_ENDED]
    assert await store.run_events(other) == []
    assert await state_of(store) is None


async def test_no_event_follows_the_end_of_its_run(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(events={run_id: events(0, 2)}, end=end(run_id))])

    late = effects(states=[state(1)], events={run_id: events(2, 1)})
    repeated = effects(states=[state(2)], events={run_id: events(0, 2)})

    assert await store.commit("h1", [late, repeated]) == [ALREADY_ENDED, COMMITTED]
    assert await store.run_events(run_id) == events(0, 2)
    assert await state_of(store) == 2


async def test_a_commit_may_be_repeated_after_a_lost_answer(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    first = effects(events={run_id: events(0, 3)})
    longer = effects(events={run_id: events(1, 4)})

    assert await store.commit("h1", [first, first]) == [COMMITTED, COMMITTED]
    assert await store.commit("h1", [first, longer]) == [COMMITTED, COMMITTED]
    assert await store.run_events(run_id) == events(0, 5)


async def test_the_tail_of_a_chunk_keeps_its_json(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    told = [
        RunEvent(offset=n, kind="chunk", time=T0, data={"text": f"\0{n}", "number": 1e16})
        for n in range(3)
    ]
    await store.commit("h1", [effects(events={run_id: told[:1]})])
    await store.commit("h1", [effects(events={run_id: told})])
    assert await store.run_events(run_id) == told


@pytest.mark.parametrize("first", [1, 3])
async def test_a_gap_before_the_events_is_an_error(store: Store, first: int):
    await serve(store)
    run_id = await admit_one(store)
    other = effects(states=[state(1)], events={run_id: []})
    with pytest.raises(ValueError, match=f"run {run_id} has offset 0, not {first}"):
        await store.commit("h1", [other, effects(events={run_id: events(first, 2)})])
    assert await store.run_events(run_id) == []
    assert await state_of(store) is None


@pytest.mark.parametrize("offsets", [[0, 2], [0, 0], [1, 0], [-1, 0]])
async def test_a_gap_between_the_events_is_an_error(store: Store, offsets: list[int]):
    await serve(store)
    run_id = await admit_one(store)
    told = [RunEvent(offset=n, kind="progress", time=T0) for n in offsets]
    with pytest.raises(ValueError, match="has offset"):
        await store.commit("h1", [effects(events={run_id: told})])


async def test_an_unknown_run_is_an_error(store: Store):
    await serve(store)
    batch = [effects(states=[state(1)]), effects(end=end("run_none"))]
    with pytest.raises(UnknownRun, match="run_none"):
        await store.commit("h1", batch)
    assert await state_of(store) is None
    fenced = effects(epoch=7, end=end("run_none"))
    assert await store.commit("h1", [fenced]) == [FENCED]


async def test_a_run_ends_only_in_a_terminal_status(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    with pytest.raises(ValueError, match="cannot end as waiting"):
        await store.commit("h1", [effects(end=end(run_id, RunStatus.WAITING))])


async def test_a_value_without_json_commits_nothing(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    for bad in (
        effects(states=[StateWrite(ADA, {"n": float("nan")})]),
        effects(end=end(run_id, result=object())),
        effects(events={run_id: [RunEvent(offset=0, kind="x", time=T0, data={"s": {1}})]}),
    ):
        with pytest.raises(PayloadError):
            await store.commit("h1", [effects(states=[state(1)]), bad])
    assert await state_of(store) is None


async def test_an_end_without_a_start_keeps_the_known_start(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.mark_running({run_id: at(1)}, "h1")
    done = RunEnd(run_id, RunStatus.CANCELLED, None, None, None, at(9))
    await store.commit("h1", [effects(end=done)])

    stored = await store.get_run(run_id)
    assert stored is not None
    assert (stored.run.started_at, stored.run.finished_at) == (at(1), at(9))
