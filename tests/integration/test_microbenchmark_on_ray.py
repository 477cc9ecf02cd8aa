"""Each row can be measured on a real cluster; whether a figure is good, tests do not ask."""

from __future__ import annotations

import math

import pytest

from agentray import ManagerClient
from agentray.microbenchmark.agents import POOL, app
from agentray.microbenchmark.calls import measure_calls
from agentray.microbenchmark.durable import measure_durable
from agentray.microbenchmark.failover import measure_failover
from agentray.microbenchmark.in_memory import measure_in_memory
from agentray.microbenchmark.moves import measure_moves
from agentray.microbenchmark.peers import measure_peers
from agentray.microbenchmark.places import deployed
from agentray.microbenchmark.rows import Row
from agentray.microbenchmark.scale import Scale
from agentray.microbenchmark.step_events import measure_step_events
from agentray.microbenchmark.streams import measure_streams
from tests.support.cluster import until_complete

pytestmark = pytest.mark.timeout(400)

TINY = Scale(
    rounds=1,
    seconds=0.1,
    sequential=5,
    arrays=3,
    stream_items=200,
    bare_stream_items=20,
    idle_streams=20,
    activations=50,
    idle_agents=3_000,
    actors=1,
    growth_agents=(1, 20),
    kills=2,
    bare_kills=1,
    sessions=1_000,
)


async def test_every_row_can_be_measured_and_the_hosts_of_it_are_gone_afterwards(
    manager: ManagerClient,
):
    before = await until_complete(manager)
    rows: list[Row] = []
    async with deployed(manager, app, {POOL: 2}):
        for measure in (measure_calls, measure_streams, measure_peers, measure_in_memory):
            rows += await measure(manager, TINY)
    assert [row.name for row in rows] == [
        "call_sequential_p50_ms",
        "call_inflight64_per_s",
        "call_inflight512_per_s",
        "fast_behind_slow_p50_ms",
        "fast_behind_slow_p50_ms",
        "stream_chunks_per_s",
        "stream_apart_chunks_per_s",
        "call_local_per_s",
        "numpy_1mib_p50_ms",
        "activate_agents_per_s",
        "idle_agent_bytes",
        "idle_3k_mb",
    ]
    assert all(row.baseline_value > 0 and math.isfinite(row.ratio) for row in rows)
    assert set((await until_complete(manager)).values()) == set(before.values())


async def test_what_is_killed_is_measured_and_only_hosts_of_its_own_are(manager: ManagerClient):
    before = await until_complete(manager)
    async with deployed(manager, app, {POOL: 1}):
        rows = await measure_failover(manager, TINY)
    assert [row.name for row in rows] == [
        "failover_p50_ms",
        "failover_p99_ms",
        "manager_kill_failed_messages",
    ]
    assert all(row.baseline_value > 0 for row in rows)
    assert rows[2].value == 0
    assert set((await until_complete(manager)).values()) == set(before.values())


async def test_durable_prompts_are_measured_in_a_process_of_their_own():
    (row,) = await measure_durable(TINY)
    assert row.name == "run_durable_prompts_per_s"
    assert row.value > 0
    assert math.isfinite(row.ratio)


async def test_events_durable_per_step_are_measured_beside_runs_as_a_whole():
    (row,) = await measure_step_events(TINY)
    assert row.name == "step_events_per_s"
    assert row.value > 0
    assert row.baseline_value > 0


async def test_the_added_latency_of_a_planned_move_is_measured(manager: ManagerClient) -> None:
    (row,) = await measure_moves(manager, TINY)
    assert row.name == "planned_move_p99_added_ms"
    assert row.baseline_value > 0
    assert row.value < 5000  # no call has waited for anything but the move
