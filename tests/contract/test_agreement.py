"""Random histories: both stores say the same, and keep the promises of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agentray.core.lifecycle import TERMINAL
from agentray.errors import UnknownRun
from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunEvent
from agentray.store.base import CommitOutcome, Effects, NewRun, SlotLease, Store, StoredRun
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from tests.contract.samples import at, effects, empty, end, events, host, lease, new_run, state

RUNS = [f"run_{n}" for n in range(4)]
AGENTS = [AgentId("greeter", name) for name in ("ada", "bob")]
HOSTS = ["h0", "h1", "h2"]
SLOTS = [0, 1]
FAR_FUTURE = at(1e9)

run_ids = st.sampled_from(RUNS)
hosts = st.sampled_from(HOSTS)
# What a run is follows from its id, as everywhere; only when it is admitted is left open.
known_runs = st.fixed_dictionaries(
    {
        run_id: st.builds(
            new_run,
            st.just(run_id),
            agent=st.sampled_from(AGENTS),
            slot=st.sampled_from(SLOTS),
            owner=st.sampled_from(["", "o"]),
            idempotency_key=st.sampled_from([None, "k", "l"]),
            digest=st.sampled_from(["d", "e"]),
        )
        for run_id in RUNS
    }
)
pieces = st.builds(events, st.integers(0, 3), st.integers(0, 3))
batches = st.lists(
    st.builds(
        effects,
        st.sampled_from([1, 1, 2, 3]),
        slot=st.sampled_from(SLOTS),
        states=st.lists(st.builds(state, st.integers(0, 99), st.sampled_from(AGENTS)), max_size=2),
        events=st.dictionaries(run_ids, pieces, max_size=2),
        end=st.none() | st.builds(end, run_ids, st.sampled_from(sorted(TERMINAL))),
    ),
    min_size=1,
    max_size=3,
)
leases = st.lists(
    st.builds(lease, st.none() | hosts, st.sampled_from(SLOTS)),
    max_size=2,
    unique_by=lambda wanted: wanted.slot,
)


class BothStores(RuleBasedStateMachine):
    """Does everything to both stores; the epochs and what has ended are kept beside them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, postgres: PostgresStore, dsn: str) -> None:
        super().__init__()
        self.loop, self.postgres, self.dsn = loop, postgres, dsn
        self.memory = MemoryStore()
        self.known: dict[str, NewRun] = {}
        self.leases: dict[int, SlotLease] = {}
        self.dead: set[str] = set()
        self.ended: dict[str, Run] = {}

    def both(self, do: Callable[[Store], Awaitable[Any]]) -> Any:
        """Return what both stores answer."""
        expected, found = (
            self.loop.run_until_complete(self.answer(do, store))
            for store in (self.memory, self.postgres)
        )
        assert found == expected
        return found

    @staticmethod
    async def answer(do: Callable[[Store], Awaitable[Any]], store: Store) -> Any:
        try:
            return await do(store)
        except (ValueError, UnknownRun) as error:
            return type(error), str(error)

    @initialize(known=known_runs)
    def begin(self, known: dict[str, NewRun]) -> None:
        self.known = known
        self.loop.run_until_complete(empty(self.dsn))
        for row in map(host, HOSTS):
            self.both(lambda store, row=row: store.put_host(row))
        self.assign([lease("h0", slot) for slot in SLOTS], dead=frozenset())

    @rule(run_ids=st.lists(run_ids, max_size=3), hour=st.sampled_from([0, 1, 25, 50]))
    def admit(self, run_ids: list[str], hour: int) -> None:
        runs = [replace(self.known[run_id], created_at=at(3600 * hour)) for run_id in run_ids]
        self.both(lambda store: store.admit(runs))

    @rule(run_id=run_ids, host_id=hosts)
    def mark_running(self, run_id: str, host_id: str) -> None:
        self.both(lambda store: store.mark_running({run_id: at(5)}, host_id))

    @rule(run_id=run_ids)
    def retry(self, run_id: str) -> None:
        self.both(lambda store: store.retry_run(run_id))

    @rule(leases=leases, dead=st.frozensets(hosts, max_size=1))
    def assign(self, leases: list[SlotLease], dead: frozenset[str]) -> None:
        reasons = dict.fromkeys(dead, "killed")
        found = self.both(lambda store: store.assign_slots(leases, dead_hosts=reasons))
        for assigned in found:
            earlier = self.leases.get(assigned.slot)
            assert assigned.epoch == (earlier.epoch + 1 if earlier else 1)
            self.leases[assigned.slot] = assigned
        self.dead |= dead

    @rule(host_id=hosts, batch=batches)
    def commit(self, host_id: str, batch: list[Effects]) -> None:
        before = self.both(lambda store: store.load_states(AGENTS))
        outcomes = self.both(lambda store: store.commit(host_id, batch))
        after = self.both(lambda store: store.load_states(AGENTS))
        if isinstance(outcomes, tuple):  # an error: nothing was written
            assert after == before
            return
        for item, outcome in zip(batch, outcomes, strict=True):
            held = self.leases[item.slot]
            may = host_id not in self.dead and (held.host, held.epoch) == (host_id, item.epoch)
            assert (outcome is CommitOutcome.FENCED) is not may
            if outcome is CommitOutcome.COMMITTED:
                before |= {write.agent: write for write in item.states}
        assert after == before

    @rule(host_id=hosts, run_id=run_ids, slot=st.sampled_from(SLOTS), number=st.integers(0, 3))
    def proceed(self, host_id: str, run_id: str, slot: int, number: int) -> None:
        """Commit what continues a run, which random offsets and epochs seldom do."""
        stored = self.both(lambda store: store.get_run(run_id))
        held = self.leases[slot]
        if stored is not None and held.host is not None:
            told = {run_id: events(stored.events, number)}
            batch = [effects(held.epoch, slot=slot, events=told)]
            self.both(lambda store: store.commit(held.host or host_id, batch))

    @invariant()
    def the_stores_agree(self) -> None:
        self.both(look)

    @invariant()
    def a_run_ends_once_and_its_offsets_have_no_gaps(self) -> None:
        for run_id in RUNS:
            stored, told = self.both(lambda store, run_id=run_id: look_at(store, run_id))
            if stored is None:
                continue
            assert [event.offset for event in told] == list(range(stored.events))
            if stored.run.status in TERMINAL:
                assert self.ended.setdefault(run_id, stored.run) == stored.run
            assert (run_id in self.ended) is (stored.run.status in TERMINAL)


async def look(store: Store) -> tuple[Any, ...]:
    """Everything that a store keeps, but for what belongs to one run."""
    return (
        await store.list_runs(),
        await store.count_runs(),
        await store.unfinished_runs(created_before=FAR_FUTURE),
        await store.list_slots(),
        await store.list_hosts(include_dead=True),
    )


async def look_at(store: Store, run_id: str) -> tuple[StoredRun | None, list[RunEvent]]:
    """A run and its events."""
    return await store.get_run(run_id), await store.run_events(run_id)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of its own: the machine's steps are no coroutines."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def opened(loop: asyncio.AbstractEventLoop, postgres_dsn: str) -> Iterator[PostgresStore]:
    """A store on that loop."""
    store = PostgresStore(postgres_dsn)
    loop.run_until_complete(store.open())
    yield store
    loop.run_until_complete(store.close())


def test_both_stores_agree_on_random_histories(
    loop: asyncio.AbstractEventLoop, opened: PostgresStore, postgres_dsn: str
):
    class Machine(BothStores):
        def __init__(self) -> None:
            super().__init__(loop, opened, postgres_dsn)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )
