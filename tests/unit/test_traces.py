"""What runs set off is kept behind their ends: found, bounded, forgotten, and never waited for."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentray import Agent, App, Event, ManagerClient, Prompt, Run, RunStatus, action, on
from agentray.errors import PayloadError, StoreUnavailable, UnknownRun
from agentray.event_run import DurabilityName
from agentray.ids import check_traceparent, new_traceparent
from agentray.protocol.runs import Span
from agentray.protocol.traces import RunTrace, summarise
from agentray.runtime import trace_writer
from agentray.runtime.pruner import Pruner, TraceRetention, trace_broom
from agentray.runtime.trace_writer import Ended, TraceWriter
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_seen: list[tuple[str, str | None]] = []


class Counted(Event):
    text: str


class Clerk(Agent):
    """Asks a counter, in the way that its prompt says."""

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Any:
        _seen.append(("clerk", self.context.traceparent))
        match prompt.text:
            case "call":
                return await self.handle(Counter, "c").count("some text")
            case "publish":
                return [Counted(text="a"), Counted(text="b")]
            case "dispatch":
                run = await self.dispatch(Counted(text="a"))
                await run.wait()
                return run.id
            case "fail":
                raise ValueError("no")
            case _:
                return "done"


class Counter(Agent):
    """Counts what it is given."""

    @action
    async def count(self, text: str) -> int:
        _seen.append(("counter", self.context.traceparent))
        return len(text)

    @on(Counted, key="field:text")
    async def take(self, counted: Counted) -> None:
        _seen.append((counted.text, self.context.traceparent))
        if counted.text == "b":
            raise KeyError("b")


class Slow(MemoryStore):
    """Keeps traces when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.batches: list[int] = []
        self.broken: Exception | None = None

    async def put_traces(self, traces: Sequence[RunTrace]) -> None:
        self.batches.append(len(traces))
        await self.may.wait()
        if self.broken is not None:
            raise self.broken
        await super().put_traces(traces)


@pytest.fixture
async def store() -> Slow:
    return Slow()


@pytest.fixture
async def manager(store: Slow) -> AsyncIterator[ManagerClient]:
    _seen.clear()
    store.may.set()
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("shop", [Clerk, Counter]))
        yield manager


async def spans_of(manager: ManagerClient, run: Run) -> list[Span]:
    trace = await manager.trace(run.id)
    assert trace is not None
    return list(trace.spans)


# What is kept


async def test_the_tree_of_a_run_is_kept_with_all_that_is_known_of_it(
    manager: ManagerClient,
) -> None:
    run = await manager.prompt("call", agent=Clerk)
    trace = await manager.trace(run.id)
    assert trace is not None
    root, called = trace.spans
    assert (root.parent, called.parent) == (None, root.id)
    assert (root.agent, root.event) == (run.agent, Prompt.event_type)
    assert (called.agent, called.event, called.error) == ("counter/c", "count", None)
    assert called.size_bytes is not None
    assert root.duration_ms >= called.duration_ms >= 0
    assert called.waited_ms is not None
    assert called.waited_ms >= 0
    assert called.host
    about = trace.summary
    assert (about.run, about.correlation_id, about.status) == (run.id, run.id, run.status)
    assert (about.spans, about.errors, about.dropped_spans) == (2, 0, 0)
    assert (about.agent_types, about.events) == (
        ("clerk", "counter"),
        (Prompt.event_type, "count"),
    )


async def test_a_failed_run_has_its_trace_with_the_errors(manager: ManagerClient) -> None:
    run = await manager.prompt("publish", agent=Clerk)
    assert run.status is RunStatus.FAILED
    spans = await spans_of(manager, run)
    assert [span.error for span in spans if span.error] == ["KeyError: 'b'"]
    failed = await manager.prompt("fail", agent=Clerk)
    (span,) = await spans_of(manager, failed)
    assert span.error == "ValueError: no"


@pytest.mark.parametrize("durability", ["run", "step", "none"])
async def test_the_run_of_an_event_has_its_trace(
    manager: ManagerClient, durability: DurabilityName
) -> None:
    run = await manager.dispatch(Counted(text="a"), durability=durability)
    assert (await run.wait()).status is RunStatus.SUCCEEDED
    trace = await manager.trace(run.id)
    assert trace is not None
    (taken,) = trace.spans
    assert (taken.agent, taken.event, taken.parent) == ("counter/a", Counted.event_type, None)
    assert (trace.summary.agent, trace.summary.correlation_id) == (str(run.root), run.id)
    assert _seen == [("a", f"00-{trace.summary.trace_id}-{taken.id}-01")]
    failed = await manager.dispatch(Counted(text="b"), durability=durability, on_error="collect")
    assert (await failed.wait()).status is RunStatus.SUCCEEDED
    told = await manager.trace(failed.id)
    assert told is not None
    assert (told.summary.errors, told.summary.status) == (1, RunStatus.SUCCEEDED)
    assert told.summary.trace_id != trace.summary.trace_id


async def test_a_run_of_which_nothing_is_recorded_has_no_trace(manager: ManagerClient) -> None:
    run = await manager.dispatch(Counted(text="a"), durability="none", events=False)
    await run.wait()
    assert await manager.traces() == []
    ((_, told),) = _seen
    assert check_traceparent(told) is not None  # its messages belong together all the same


async def test_traces_are_found_by_type_event_time_and_conversation(manager: ManagerClient) -> None:
    plain = await manager.prompt("plain", agent=Clerk)
    called = await manager.prompt("call", agent=Clerk)
    failed = await manager.prompt("publish", agent=Clerk)
    for run in (plain, called, failed):
        await spans_of(manager, run)

    async def found(**query: Any) -> list[str]:
        return [of.run for of in await manager.traces(**query)]

    assert await found() == [failed.id, called.id, plain.id]
    assert await found(limit=1) == [failed.id]
    assert await found(agent_type=Counter) == [failed.id, called.id]
    assert await found(agent_type="counter", event="count") == [called.id]
    assert await found(event=Counted) == [failed.id]
    assert await found(event="Counted") == [failed.id]
    assert await found(errors=True) == [failed.id]
    assert await found(correlation_id=plain.correlation_id) == [plain.id]
    assert await found(since=timedelta(minutes=1)) == [failed.id, called.id, plain.id]
    assert await found(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert await found(until=datetime.now(UTC) - timedelta(minutes=1)) == []


async def test_what_has_no_trace_says_so(manager: ManagerClient, store: Slow) -> None:
    with pytest.raises(UnknownRun):
        await manager.trace("run_nope")
    run = await manager.prompt("plain", agent=Clerk)
    await spans_of(manager, run)
    await store.prune_traces(datetime.now(UTC), keep=0, limit=10)
    assert await manager.trace(run.id) is None  # once it is sure that none is on its way


# Written behind


async def test_no_run_waits_for_traces(manager: ManagerClient, store: Slow) -> None:
    store.may.clear()
    runs = [await manager.prompt("plain", agent=Clerk) for _ in range(5)]
    assert [run.status for run in runs] == [RunStatus.SUCCEEDED] * 5
    assert await store.list_traces() == []
    reading = asyncio.create_task(manager.trace(runs[-1].id))  # waits for what is on its way
    store.may.set()
    assert await reading is not None

    async def all_there() -> bool:
        return len(await store.list_traces()) == 5

    await eventually_async(all_there)


def ended(run_id: str, spans: int = 1) -> Ended:
    now = datetime.now(UTC)
    run = Run(
        id=run_id, status=RunStatus.SUCCEEDED, agent="clerk/1", correlation_id="c", created_at=now,
        started_at=now, finished_at=now,
    )  # fmt: skip
    span = (f"{1:016x}", None, "Prompt", "clerk/1", "h1", now, 1.0, None, None, 0.0)
    return Ended(run, "", [span] * spans)


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted(
    store: Slow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace_writer, "MAX_WAITING_SPANS", 10)
    writer = TraceWriter(store)
    with caplog.at_level(logging.WARNING, "agentray"):
        for number in range(15):
            writer.keep(ended(f"run_{number}"))
            await asyncio.sleep(0)
    assert writer.dropped == 5
    assert [record.message for record in caplog.records] == [
        "traces are dropped: they come faster than they can be written"
    ]
    store.may.set()
    await writer.close()
    assert len(await store.list_traces(limit=100)) == 10
    writer.keep(ended("run_again"))  # there is room again
    await writer.close()
    assert writer.dropped == 5
    assert await store.get_trace("run_again") is not None


async def test_traces_are_written_in_batches_of_bounded_size(store: Slow) -> None:
    store.may.set()
    writer = TraceWriter(store)
    for number in range(200):
        writer.keep(ended(f"run_{number}"))
    for number in range(3):
        writer.keep(ended(f"large_{number}", spans=400))
    await writer.close()
    assert store.batches[:3] == [64, 64, 64]
    assert sum(store.batches) == 203
    assert max(store.batches) == 64
    assert store.batches[-1] <= 2


def test_what_comes_right_after_others_is_gathered() -> None:
    async def one_after_the_other() -> list[int]:
        store = Slow()
        store.may.set()
        writer = TraceWriter(store)
        for number in range(20):  # as the prompts of one client
            writer.keep(ended(f"run_{number:02}"))
            await asyncio.sleep(trace_writer.LINGER_S / 10)
        await writer.close()
        assert len(await store.list_traces(limit=100)) == 20
        return store.batches

    batches = virtual_time.run(one_after_the_other())
    assert batches[0] == 1  # nobody waits for the trace of a run that is alone
    assert len(batches) <= 4


def test_what_fills_a_batch_waits_for_nothing() -> None:
    async def many_at_once() -> float:
        store = Slow()
        store.may.set()
        writer = TraceWriter(store)
        writer.keep(ended("run_first"))
        await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        for number in range(10 * trace_writer.MAX_BATCH):
            writer.keep(ended(f"run_{number:03}"))

        async def all_there() -> bool:
            return len(await store.list_traces(limit=1000)) == 1 + 10 * trace_writer.MAX_BATCH

        await eventually_async(all_there)
        took_s = asyncio.get_running_loop().time() - begun
        await writer.close()
        return took_s

    assert virtual_time.run(many_at_once()) < 2 * trace_writer.LINGER_S


async def test_a_trace_that_cannot_be_kept_does_not_take_others_with_it(store: Slow) -> None:
    store.may.set()
    writer = TraceWriter(store)
    bad = ended("run_bad")
    bad = bad._replace(run=bad.run.model_copy(update={"correlation_id": "a\0b"}))
    with pytest.raises(PayloadError):
        await MemoryStore().put_traces([summarise(bad.run, "", [])])
    writer.keep(ended("run_1"))
    writer.keep(bad)
    writer.keep(ended("run_2"))
    await writer.close()
    assert {of.run for of in await store.list_traces()} == {"run_1", "run_2"}
    assert writer.dropped == 1


async def test_traces_wait_while_the_store_is_away(
    store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_writer, "_RETRY_S", 0.001)
    store.may.set()
    store.broken = StoreUnavailable()
    writer = TraceWriter(store)
    writer.keep(ended("run_1"))

    async def tried_twice() -> bool:
        return len(store.batches) >= 2

    await eventually_async(tried_twice)
    store.broken = None
    await writer.close()
    assert await store.get_trace("run_1") is not None
    assert writer.dropped == 0


async def test_dropped_traces_show_in_the_status(
    manager: ManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_writer, "MAX_WAITING_SPANS", 0)
    run = await manager.prompt("plain", agent=Clerk)
    assert run.status is RunStatus.SUCCEEDED

    async def shown() -> bool:
        hosts = (await manager.status())["hosts"]
        return sum(host.get("dropped_traces", 0) for host in hosts) == 1

    await eventually_async(shown, timeout_s=20)


# Forgotten


async def test_the_manager_forgets_a_few_at_a_time(store: Slow) -> None:
    store.may.set()
    writer = TraceWriter(store)
    for number in range(30):
        writer.keep(ended(f"run_{number:02}"))
    await writer.close()
    pruner = Pruner([trace_broom(store, TraceRetention(days=1, runs=10))])
    await pruner.sweep()
    assert len(await store.list_traces(limit=100)) == 10
    writer.keep(ended("run_99"))
    await writer.close()
    await pruner.sweep()  # the next look is not due yet
    assert len(await store.list_traces(limit=100)) == 11
    await Pruner([trace_broom(store, TraceRetention(days=0, runs=10))]).sweep()
    assert await store.list_traces() == []


# W3C trace context


async def test_every_message_of_a_run_is_in_one_trace(manager: ManagerClient) -> None:
    run = await manager.prompt("call", agent=Clerk)
    root, called = await spans_of(manager, run)
    trace = await manager.trace(run.id)
    assert trace is not None
    assert _seen == [
        ("clerk", f"00-{trace.summary.trace_id}-{root.id}-01"),
        ("counter", f"00-{trace.summary.trace_id}-{called.id}-01"),
    ]
    assert re.fullmatch("[0-9a-f]{32}", trace.summary.trace_id)
    other = await manager.prompt("publish", agent=Clerk)
    published = dict(_seen[2:])
    found = await manager.trace(other.id)
    assert found is not None
    assert found.summary.trace_id != trace.summary.trace_id
    ids = {told[3:35] for told in published.values() if told}
    assert ids == {found.summary.trace_id}
    assert {told[36:52] for told in published.values() if told} == {s.id for s in found.spans}


async def test_a_run_that_an_agent_dispatches_continues_its_trace(manager: ManagerClient) -> None:
    run = await manager.prompt("dispatch", agent=Clerk)
    trace = await manager.trace(run.id)
    other = await manager.trace(run.result)
    assert trace is not None
    assert other is not None
    assert other.summary.trace_id == trace.summary.trace_id
    assert [span.agent for span in trace.spans] == [run.agent]
    assert [span.agent for span in other.spans] == ["counter/a"]


async def test_calls_outside_of_runs_have_no_trace(manager: ManagerClient) -> None:
    await manager.handle(Counter, "c").count("x")
    assert _seen == [("counter", None)]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (GIVEN[:-2] + "00", GIVEN[:-2] + "00"),
        ("01" + GIVEN[2:] + "-more", GIVEN),  # a later version: what is known of it
        ("01" + GIVEN[2:], GIVEN),
        (None, None),
        ("", None),
        (GIVEN + "-more", None),
        ("01" + GIVEN[2:] + "more", None),
        ("ff" + GIVEN[2:], None),
        (GIVEN.upper(), None),
        (GIVEN.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (GIVEN.replace("b7ad6b7169203331", "0" * 16), None),
        (GIVEN[:-1], None),
    ],
)
def test_a_traceparent_is_read_as_the_standard_says(given: str | None, read: str | None) -> None:
    assert check_traceparent(given) == read


def test_a_new_traceparent_is_well_formed_and_new() -> None:
    made = {new_traceparent() for _ in range(100)}
    assert len(made) == 100
    assert {check_traceparent(each) for each in made} == made
