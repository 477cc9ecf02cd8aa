"""Runs are forgotten by the manager, behind its work, and by hand; what must stay does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentray import Agent, App, ConfigurationError, Prompt, Settings, TerminateEvent, on
from agentray.config import RunRetention
from agentray.core.lifecycle import TERMINAL
from agentray.protocol.runs import RunStatus
from agentray.runtime.pruner import BATCH, Pruner, run_brooms
from agentray.store.memory import MemoryStore
from agentray.store.retention import PruneQuery
from agentray.testing import LocalRuntime
from tests.contract.samples import admit_one, effects, end, serve

NOW = datetime.now(UTC)


class Said(TerminateEvent):
    text: str


class Greeter(Agent):
    @on(Prompt)
    async def greet(self, prompt: Prompt) -> Said:
        return Said(text=prompt.text)


app = App("greetings", [Greeter])


async def ended(store: MemoryStore, ago: timedelta, status: RunStatus = RunStatus.SUCCEEDED) -> str:
    run_id = await admit_one(store)
    await store.commit("h1", [effects(end=end(run_id, status, finished_at=NOW - ago))])
    return run_id


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await serve(store)
    return store


async def left(store: MemoryStore) -> set[str]:
    return {run.id for run in await store.list_runs(limit=10_000)}


async def test_each_kind_of_end_is_kept_for_its_days(store: MemoryStore) -> None:
    days = {status: [await ended(store, timedelta(days=d), status) for d in (2, 6, 20)]
            for status in sorted(TERMINAL)}  # fmt: skip
    waiting = await admit_one(store)
    await Pruner(run_brooms(store, RunRetention(5, 100, 10, 100))).sweep()
    happy = {RunStatus.SUCCEEDED, RunStatus.CANCELLED}
    expected = {run for status, runs in days.items() for run in runs[: 1 if status in happy else 2]}
    assert await left(store) == expected | {waiting}


async def test_of_many_the_newest_stay_and_those_of_the_last_day_in_any_case(
    store: MemoryStore,
) -> None:
    old = [await ended(store, timedelta(days=2, minutes=n)) for n in range(10)]
    new = [await ended(store, timedelta(minutes=n)) for n in range(10)]
    await Pruner(run_brooms(store, RunRetention(100, 15, 100, 15))).sweep()
    assert await left(store) == {*new, *old[:5]}
    await Pruner(run_brooms(store, RunRetention(1, 0, 1, 0))).sweep()
    assert await left(store) == set(new)


class Counting(MemoryStore):
    batches: list[int]

    async def prune_runs(self, query: PruneQuery, *, limit: int) -> int:
        pruned = await super().prune_runs(query, limit=limit)
        self.batches.append(pruned)
        return pruned


async def test_no_statement_forgets_more_than_a_batch() -> None:
    store = Counting()
    store.batches = []
    await serve(store)
    for n in range(2 * BATCH + 5):
        await ended(store, timedelta(days=40, seconds=n))
    await Pruner(run_brooms(store, RunRetention())).sweep()
    assert sorted(store.batches, reverse=True)[:3] == [BATCH, BATCH, 5]
    assert await left(store) == set()


async def test_the_manager_prunes_behind_its_work() -> None:
    store = MemoryStore()
    await serve(store)
    old = await ended(store, timedelta(days=400))
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(app)
        new = await manager.prompt("hello", agent=Greeter)
        assert old not in await left(store)
        assert new.id in await left(store)


async def test_by_hand_it_is_counted_first(store: MemoryStore) -> None:
    for status in (RunStatus.SUCCEEDED, RunStatus.FAILED):
        await ended(store, timedelta(days=3), status)
    async with LocalRuntime(store=store) as manager:
        two_days = timedelta(days=2)
        both = {RunStatus.SUCCEEDED: 1, RunStatus.FAILED: 1}
        assert await manager.prune_runs(two_days, dry_run=True) == both
        assert await manager.prune_runs(two_days, status="failed") == {RunStatus.FAILED: 1}
        assert await manager.prune_runs(two_days) == {RunStatus.SUCCEEDED: 1}
        assert await manager.prune_runs(two_days) == {}
        for wrong in (
            {"older_than": timedelta(hours=1)},
            {"older_than": two_days, "status": "queued"},
        ):
            given: dict[str, Any] = wrong
            with pytest.raises(ConfigurationError):
                await manager.prune_runs(**given)


def test_runs_are_kept_for_a_day_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRAY_RUN_RETENTION_DAYS", "0.5")
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Settings()
