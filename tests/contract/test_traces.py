"""Traces: kept behind the run's end, found by what is in them, and forgotten in time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentray.errors import PayloadError
from agentray.protocol.runs import Run, RunStatus, Span
from agentray.protocol.traces import RunTrace, TraceQuery, summarise
from agentray.store.base import Store
from agentray.store.memory import MemoryStore
from tests.contract.samples import at


def span(number: int, parent: int | None = None, /, **fields: Any) -> Span:
    """A handled message."""
    defaults: dict[str, Any] = {
        "id": f"{number:016x}",
        "parent": None if parent is None else f"{parent:016x}",
        "event": "Prompt",
        "agent": "greeter/ada",
        "host": "h1",
        "started_at": at(number),
        "duration_ms": 1.25,
        "size_bytes": 120,
        "waited_ms": 0.5,
    }
    return Span(**{**defaults, **fields})


def trace(
    run: str, seconds: float = 0, *spans: Span, dropped: int = 0, **run_fields: Any
) -> RunTrace:
    """The trace of a run that took one second."""
    defaults: dict[str, Any] = {
        "status": RunStatus.SUCCEEDED,
        "agent": "greeter/ada",
        "correlation_id": run,
        "created_at": at(seconds),
        "started_at": at(seconds),
        "finished_at": at(seconds + 1),
    }
    ended = Run(id=run, **{**defaults, **run_fields})
    return summarise(ended, "0af7651916cd43dd8448eb211c80319c", spans or (span(0),), dropped)


async def runs(store: Store, query: TraceQuery | None = None, **more: Any) -> list[str]:
    """The runs whose traces are found, in order."""
    return [of.run for of in await store.list_traces(query or TraceQuery(), **more)]


async def test_a_trace_comes_back_as_it_was_kept(store: Store):
    later = span(2, 1, event="shop.Ordered", agent="shop/1/2", host="h2", error="ValueError: no")
    kept = trace("run_1", 5, later, span(1, size_bytes=None, waited_ms=None), dropped=3)

    await store.put_traces([kept])

    found = await store.get_trace("run_1")
    assert found is not None
    assert found == kept
    assert [s.id for s in found.spans] == [span(1).id, later.id]  # in order of their start
    about = found.summary
    assert (about.spans, about.dropped_spans, about.errors) == (2, 3, 1)
    assert (about.agent_types, about.events) == (("greeter", "shop"), ("Prompt", "shop.Ordered"))
    assert about.duration_ms == 1000
    assert await store.list_traces() == [about]


async def test_what_has_no_trace_has_none(store: Store):
    assert await store.get_trace("run_0") is None
    assert await store.list_traces() == []
    await store.put_traces([])


async def test_a_trace_that_comes_again_replaces_the_first(store: Store):
    await store.put_traces([trace("run_1", 0), trace("run_1", 1, status=RunStatus.FAILED)])
    await store.put_traces([trace("run_1", 2, span(7), status=RunStatus.DEAD)])

    (about,) = await store.list_traces()
    assert (about.status, about.started_at) == (RunStatus.DEAD, at(2))
    found = await store.get_trace("run_1")
    assert found is not None
    assert [s.id for s in found.spans] == [span(7).id]


async def test_traces_are_found_by_what_is_in_them(store: Store):
    shop = span(3, event="shop.Ordered", agent="shop/7")
    await store.put_traces(
        [
            trace("run_1", 1, correlation_id="c1"),
            trace("run_2", 2, span(0), shop, correlation_id="c2"),
            trace("run_3", 3, span(0, error="ValueError: no"), correlation_id="c1"),
        ]
    )

    assert await runs(store) == ["run_3", "run_2", "run_1"]
    assert await runs(store, limit=2) == ["run_3", "run_2"]
    assert await runs(store, TraceQuery(correlation_id="c1")) == ["run_3", "run_1"]
    assert await runs(store, TraceQuery(agent_type="shop")) == ["run_2"]
    assert await runs(store, TraceQuery(agent_type="greeter")) == ["run_3", "run_2", "run_1"]
    assert await runs(store, TraceQuery(event="shop.Ordered")) == ["run_2"]
    assert await runs(store, TraceQuery(event="Ordered")) == ["run_2"]
    assert await runs(store, TraceQuery(event="dered")) == []
    assert await runs(store, TraceQuery(event="%")) == []
    assert await runs(store, TraceQuery(since=at(2))) == ["run_3", "run_2"]
    assert await runs(store, TraceQuery(until=at(2))) == ["run_1"]
    assert await runs(store, TraceQuery(errors=True)) == ["run_3"]
    assert await runs(store, TraceQuery(errors=False, since=at(2))) == ["run_2"]
    assert await runs(store, TraceQuery(event="Prompt", agent_type="shop"), limit=1) == ["run_2"]


async def test_old_traces_are_forgotten_and_those_beyond_the_newest(store: Store):
    await store.put_traces([trace(f"run_{n}", n) for n in range(10)])

    assert await store.prune_traces(at(2), keep=100, limit=100) == 2
    assert await runs(store, limit=100) == [f"run_{n}" for n in range(9, 1, -1)]
    assert await store.prune_traces(at(0), keep=3, limit=2) == 2  # a small batch: the oldest
    assert await runs(store, limit=100) == [f"run_{n}" for n in range(9, 3, -1)]
    assert await store.prune_traces(at(0), keep=3, limit=100) == 3
    assert await runs(store) == ["run_9", "run_8", "run_7"]
    assert await store.prune_traces(at(0), keep=3, limit=100) == 0
    assert await store.prune_traces(at(0), keep=0, limit=100) == 3
    assert await runs(store) == []


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("field", ["event", "agent"])
async def test_a_text_that_cannot_be_stored_keeps_none(store: Store, field: str, text: str):
    with pytest.raises(PayloadError):
        await store.put_traces([trace("run_1"), trace("run_2", 0, span(0, None, **{field: text}))])
    assert await runs(store) == []


async def test_an_error_may_be_any_text(store: Store):
    kept = trace("run_1", 0, span(0, error="ValueError: a\0b \ud800 é😀"))
    await store.put_traces([kept])
    assert await store.get_trace("run_1") == kept


@given(
    seconds=st.lists(st.integers(0, 5), max_size=8),
    before=st.integers(0, 6),
    keep=st.integers(0, 8),
    limit=st.integers(1, 8),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_both_stores_forget_the_same(
    postgres: Store, seconds: list[int], before: int, keep: int, limit: int
):
    memory = MemoryStore()
    traces = [trace(f"run_{n}", second) for n, second in enumerate(seconds)]
    for store in (memory, postgres):
        await store.prune_traces(at(100), keep=0, limit=100)
        await store.put_traces(traces)

    pruned = [await s.prune_traces(at(before), keep=keep, limit=limit) for s in (memory, postgres)]

    assert pruned[0] == pruned[1]
    assert await memory.list_traces() == await postgres.list_traces()
    wanted = {n for n, second in enumerate(seconds) if second >= before}
    if pruned[0] < limit:
        assert len(await memory.list_traces()) == min(len(wanted), keep)
