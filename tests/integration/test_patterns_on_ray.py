"""Patterns on a real cluster with two hosts: their parts in two processes, one of which may die."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from agentray import DeadlineExceeded, ManagerClient, RunStatus
from agentray.patterns import Change, Memory, gather, wait_for_events
from tests.support.cluster import until_complete
from tests.support.eventually import eventually_async
from tests.support.pattern_agents import (
    AllSettled,
    Asker,
    Burst,
    Clerk,
    Foreman,
    ProcessMemory,
    Settled,
    Verdict,
    Votes,
    Writer,
    app,
)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def patterns(manager: ManagerClient) -> ManagerClient:
    await manager.deploy(app)
    await until_complete(manager)
    return manager


async def test_many_conversations_at_once_are_aggregated_over_two_hosts(patterns: ManagerClient):
    runs = await gather(
        range(300), lambda n: patterns.prompt(f"a{n} b{n} c{n}", agent=Clerk), limit=300
    )
    assert [run.result for run in runs] == [
        {"votes": [f"a{n}", f"b{n}", f"c{n}"], "failed": []} for n in range(300)
    ]
    hosts = await until_complete(patterns)
    keys = [run.correlation_id for run in runs[:50]]
    where = await gather(keys, lambda key: patterns.handle(Votes, key).call(Votes.process))
    assert set(where) == set(hosts.values())


async def test_a_failed_branch_and_those_who_wait(patterns: ManagerClient, tmp_path: Path):
    run = await patterns.prompt("a - b", agent=Clerk)
    assert run.result == {"votes": ["a", "b"], "failed": ["ValueError: no vote"]}
    (verdict,) = await wait_for_events(patterns, Votes, run.correlation_id, 10)
    assert isinstance(verdict, Verdict)

    gate = tmp_path / "gate"
    waiting = asyncio.create_task(patterns.prompt(f"a b {gate}", agent=Clerk))
    key = await eventually_async(lambda: incomplete_votes(patterns))
    with pytest.raises(DeadlineExceeded):
        await wait_for_events(patterns, Votes, key, 0.2)
    patient = asyncio.create_task(wait_for_events(patterns, Votes, key, 200))
    gate.touch()
    assert (await waiting).status is RunStatus.SUCCEEDED
    (verdict,) = await patient
    assert isinstance(verdict, Verdict)
    assert str(gate) in verdict.votes


async def incomplete_votes(manager: ManagerClient) -> str:
    """Return the key of an aggregator that waits for more votes; "": there is none."""
    for row in await manager.agents("votes", 1000):
        if row["status"] == "running":
            return row["agent"].partition("/")[2]
    return ""


async def test_an_aggregators_host_is_killed_and_the_run_has_its_whole_result(
    patterns: ManagerClient, tmp_path: Path
):
    gate = tmp_path / "gate"
    waiting = asyncio.create_task(patterns.prompt(f"x y {gate}", agent=Clerk))
    key = await eventually_async(lambda: incomplete_votes(patterns))
    victim = await patterns.handle(Votes, key).call(Votes.process)
    os.kill(victim, signal.SIGKILL)
    gate.touch()
    run = await waiting
    assert (run.status, run.result) == (
        RunStatus.SUCCEEDED,
        {"votes": sorted(["x", "y", str(gate)]), "failed": []},
    )
    await until_complete(patterns, without=[victim])


async def test_agents_on_both_hosts_share_a_memory_that_survives_its_host(patterns: ManagerClient):
    hosts = await until_complete(patterns)
    memory = Memory(patterns, "shared", ProcessMemory)
    seen: list[Change] = []
    start = await memory.put("start", True)

    async def watch() -> None:
        async with aclosing(memory.watch(start)) as changes:
            async for change in changes:
                seen.append(change)  # noqa: PERF401 - looked at meanwhile

    watching = asyncio.create_task(watch())
    writers = [patterns.handle(Writer, str(n)) for n in range(20)]
    processes = await gather(writers, lambda writer: writer.add(memory, 5))
    assert set(processes) == set(hosts.values())
    assert await memory.get("count") == 100

    victim = await patterns.handle(memory.id).process()
    os.kill(victim, signal.SIGKILL)
    assert await memory.get("count") == 100
    await until_complete(patterns, without=[victim])
    await memory.put("end", True)

    async def has_seen_the_end() -> bool:
        return bool(seen) and seen[-1].key == "end"

    await eventually_async(has_seen_the_end, timeout_s=60)
    view: dict[str, object] = {}
    for change in seen:
        if change.kind == "reset":
            view.clear()
        else:
            view[change.key] = change.value
    assert view.items() >= {"count": 100, "end": True}.items()
    watching.cancel()
    await asyncio.wait([watching])


async def test_a_memory_that_is_not_durable_is_shared_as_well(patterns: ManagerClient):
    memory = Memory(patterns, "volatile")
    await gather([str(n) for n in range(10)], lambda n: patterns.handle(Writer, n).add(memory, 20))
    entry = await memory.entry("count")
    assert entry is not None
    assert entry.value == 200


async def test_goals_bursts_and_fan_out(patterns: ManagerClient):
    goals = await gather(range(1, 60), lambda n: patterns.prompt(str(n), agent=Asker))
    for number, run in enumerate(goals, 1):
        result = run.result
        assert (result["goal_id"], result["status"]) == (f"goal {number}", "done")
        assert 0.5 <= result["answer"] < 1

    assert (await patterns.prompt("500", agent=Burst)).status is RunStatus.SUCCEEDED
    settled = await patterns.handle(AllSettled, "all").call(AllSettled.collected)
    assert [event.number for event in settled if isinstance(event, Settled)] == [499]

    names = ["n" * length for length in range(1, 40)]
    assert await patterns.handle(Foreman, "f").lengths(names) == list(range(1, 40))
