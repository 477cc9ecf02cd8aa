"""Forgetting ended runs."""

from __future__ import annotations

from typing import Any

import pytest

from agentray.protocol.runs import RunStatus
from agentray.protocol.traces import summarise
from agentray.store.base import Store
from agentray.store.postgres import PostgresStore
from agentray.store.retention import PruneQuery
from tests.contract.samples import admit_one, at, effects, end, events, new_run, serve

FAR = at(1e9)


def query(
    status: RunStatus = RunStatus.SUCCEEDED,
    *,
    before: float | None = None,
    keep: int | None = None,
    spare: float = 1e9,
) -> PruneQuery:
    return PruneQuery(status, None if before is None else at(before), keep, at(spare))


async def ended(store: Store, seconds: float, status: RunStatus = RunStatus.SUCCEEDED) -> str:
    run_id = await admit_one(store)
    finish = end(run_id, status, finished_at=at(seconds))
    await store.commit("h1", [effects(events={run_id: events(0, 2)}, end=finish)])
    stored = await store.get_run(run_id)
    assert stored is not None
    await store.put_traces([summarise(stored.run, "", [])])
    return run_id


async def left(store: Store) -> list[str]:
    return sorted(run.id for run in await store.list_runs(limit=200))


async def test_runs_that_ended_long_ago_go_with_their_events_and_traces(store: Store):
    await serve(store)
    old, new = await ended(store, 10), await ended(store, 20)

    assert await store.count_prunable(query(before=15)) == 1
    assert await store.prune_runs(query(before=15), limit=100) == 1

    assert await left(store) == [new]
    assert await store.get_run(old) is None
    assert await store.run_events(old) == []
    assert await store.get_trace(old) is None
    assert len(await store.run_events(new)) == 2
    assert await store.get_trace(new) is not None


async def test_unfinished_and_waiting_runs_are_never_forgotten(store: Store):
    await serve(store)
    queued = await admit_one(store)
    running = await admit_one(store)
    await store.mark_running({running: at(1)}, "h1")
    later = new_run(not_before=at(5))
    await store.admit([later])
    for status in RunStatus:
        assert await store.prune_runs(query(status, before=1e8, keep=0), limit=100) == 0
    assert await left(store) == sorted([queued, running, later.id])


async def test_of_too_many_the_newest_stay(store: Store):
    await serve(store)
    runs = [await ended(store, seconds) for seconds in (5, 1, 4, 4, 2)]
    assert await store.prune_runs(query(keep=3), limit=100) == 2
    assert await left(store) == sorted([runs[0], runs[2], runs[3]])
    assert await store.prune_runs(query(keep=3), limit=100) == 0
    assert await store.prune_runs(query(keep=2), limit=100) == 1
    assert await left(store) == sorted([runs[0], max(runs[2], runs[3])])


async def test_each_status_has_its_own_bounds_and_the_oldest_go_first(store: Store):
    await serve(store)
    runs = [await ended(store, seconds) for seconds in (1, 2, 3)]
    failed = await ended(store, 1, RunStatus.FAILED)
    assert await store.prune_runs(query(before=100), limit=2) == 2
    assert await left(store) == sorted([runs[2], failed])
    assert await store.prune_runs(query(RunStatus.FAILED, before=100), limit=2) == 1


async def test_what_ended_a_short_while_ago_is_spared_in_any_case(store: Store):
    await serve(store)
    old, new = await ended(store, 10), await ended(store, 20)
    wanted: Any = query(before=100, keep=0, spare=20)
    assert await store.count_prunable(wanted) == 1
    assert await store.prune_runs(wanted, limit=100) == 1
    assert (await store.get_run(old), await left(store)) == (None, [new])


async def test_a_key_may_be_used_again_when_its_run_is_forgotten(store: Store):
    await serve(store)
    run_id = await admit_one(store, idempotency_key="k")
    await store.commit("h1", [effects(end=end(run_id))])
    await store.prune_runs(query(before=100), limit=1)
    (again,) = await store.admit([new_run(idempotency_key="k")])
    assert again.created


@pytest.mark.parametrize("name", ["prune_runs", "count_prunable"])
async def test_pruning_reads_a_range_of_an_index(
    postgres: PostgresStore, connection: Any, name: str
):
    await serve(postgres)
    await connection.execute("""
        INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id,
                          owner, digest, created_at, finished_at)
        SELECT 'run_' || n, 'succeeded', 'a', 'b', 'p', 0,
               json_build_object('text', repeat('x', 1500)), 'c', '', '', now(),
               now() - n * interval '1 second'
        FROM generate_series(1, 6000) AS n""")
    await connection.execute("VACUUM ANALYZE runs")
    from agentray.store.queries import queries

    extra = ", 100" if name == "prune_runs" else ""
    await connection.execute(
        f"PREPARE asked (text, timestamptz, bigint, timestamptz{', bigint' if extra else ''}) AS "
        + queries()[name]
    )
    found = await connection.fetch(
        f"EXPLAIN EXECUTE asked ('succeeded', now() - interval '1 hour', 5900, now(){extra})"
    )
    plan = "\n".join(row[0] for row in found)
    assert "Seq Scan on runs" not in plan, plan
    assert "ROW(finished_at, id) <=" in plan.split("Filter")[0] or "Index Cond" in plan, plan


async def test_one_ended_run_is_forgotten_and_an_unfinished_one_is_not(store: Store):
    await serve(store)
    old, other = await ended(store, 10), await ended(store, 10)
    queued = await admit_one(store)

    assert not await store.forget_run(queued)
    assert not await store.forget_run("run_0")
    assert await store.forget_run(old)
    assert not await store.forget_run(old)

    assert await left(store) == sorted([other, queued])
    assert await store.run_events(old) == []
    assert await store.get_trace(old) is None
