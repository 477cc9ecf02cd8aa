"""What the microbenchmark reckons and shows, and how it leaves a cluster: all without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agentray.cli.main import app as cli
from agentray.errors import ConfigurationError
from agentray.microbenchmark.agents import BY_HOSTS, POOL, Echo, Peer, app
from agentray.microbenchmark.growth import growth_rows, measure_growth
from agentray.microbenchmark.in_memory import idle_rows
from agentray.microbenchmark.parts import PARTS, chosen_parts
from agentray.microbenchmark.places import activate, deployed, peers_of_two_hosts
from agentray.microbenchmark.rows import (
    Row,
    at_least,
    at_most,
    in_turn,
    median_ms,
    medians,
    per_second,
    series,
)
from agentray.microbenchmark.scale import Scale
from agentray.microbenchmark.show import growth_table, table, write_json
from agentray.microbenchmark.streams import chunks_per_s
from agentray.testing import LocalRuntime

CALLS = Row("calls_per_s", 5000.0, "calls/s", "bare", 200.0, at_least(20))


class TestRows:
    @pytest.mark.parametrize(
        ("target", "text", "reached"),
        [
            (at_least(25), "≥ 25", True),
            (at_least(25.5), "≥ 25.5: not yet", False),
            (at_most(25), "≤ 25", True),
            (at_most(1.15), "≤ 1.15: not yet", False),
            (at_least(5_000, of="value"), "≥ 5,000 calls/s", True),
            (at_least(20_000, of="value"), "≥ 20,000 calls/s: not yet", False),
            (at_most(5_000, of="value"), "≤ 5,000 calls/s", True),
            (None, "", True),
        ],
    )
    def test_a_target_is_of_the_ratio_or_of_the_value(
        self, target: object, text: str, reached: bool
    ):
        row = replace(CALLS, target=target)
        assert (row.to_reach, row.reached) == (text, reached)

    def test_json_has_the_ratio_and_no_target(self):
        assert CALLS.as_json() == {
            "name": "calls_per_s",
            "value": 5000.0,
            "unit": "calls/s",
            "baseline": "bare",
            "baseline_value": 200.0,
            "ratio": 25.0,
        }

    def test_small_ratios_keep_their_digits(self):
        row = Row("idle_agent_bytes", 822.0, "bytes", "actor", 53_407_061.0)
        assert row.as_json()["ratio"] == pytest.approx(1.53912e-05, rel=1e-5)

    def test_without_a_baseline_value_there_is_no_ratio(self, tmp_path: Path):
        row = replace(CALLS, baseline_value=0.0)
        assert not row.reached
        write_json([row], tmp_path / "figures.json")
        (read,) = json.loads((tmp_path / "figures.json").read_text())
        assert read["ratio"] is None

    def test_a_series_stands_beside_its_first_row(self):
        one, four = series("growth_hosts_{}_per_s", "calls/s", "host", {1: 100.0, 4: 250.0})
        assert (one.name, one.ratio) == ("growth_hosts_1_per_s", 1.0)
        assert (four.name, four.ratio) == ("growth_hosts_4_per_s", 2.5)
        assert four.baseline == "the same with 1 host"

    @pytest.mark.parametrize(
        ("agents", "name", "target"),
        [(200_000, "idle_200k_mb", "≤ 1,000 MB"), (20_000, "idle_20k_mb", "≤ 100 MB")],
    )
    def test_idle_agents_are_named_by_how_many_were_measured(
        self, agents: int, name: str, target: str
    ):
        each, together = idle_rows(agents, agents * 850, 50e6, actors=2)
        assert (each.name, each.value) == ("idle_agent_bytes", 850)
        assert (together.name, together.to_reach) == (name, target)
        assert together.value == pytest.approx(agents * 850 / 1e6)
        assert together.ratio == pytest.approx(each.ratio)


class TestMeasuring:
    async def test_all_are_measured_in_turn_and_the_median_counts(self):
        order: list[str] = []
        values = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 60.0])}

        async def measure(name: str) -> float:
            order.append(name)
            return next(values[name])

        assert await medians([lambda: measure("a"), lambda: measure("b")], 3) == [2.0, 5.0]
        assert order == ["a", "b"] * 3

    async def test_ours_comes_first_of_a_pair(self):
        async def ours() -> float:
            return 1.0

        async def bare() -> float:
            return 2.0

        assert await in_turn(ours, bare, 1) == (1.0, 2.0)

    async def test_calls_per_second_counts_all_callers_and_no_more_at_once(self):
        under_way = most = calls = 0

        async def call() -> None:
            nonlocal under_way, most, calls
            under_way += 1
            calls += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

        assert await per_second(call, 8, 0.01) > 0
        assert calls >= 8
        assert most == 8

    async def test_a_machine_that_stood_still_for_long_is_no_rate_of_zero(self):
        calls = 0

        async def call() -> None:
            nonlocal calls
            calls += 1

        assert await per_second(call, 8, seconds=0.0) > 0
        assert calls == 8

    def test_medians_of_seconds_are_in_milliseconds(self):
        assert median_ms([0.001, 0.5, 0.002]) == 2.0

    async def test_a_stream_that_ends_early_is_not_measured(self):
        async def numbers(count: int) -> AsyncIterator[int]:
            for number in range(count):
                yield number

        assert await chunks_per_s(numbers(10), 10) > 0
        with pytest.raises(RuntimeError, match="after 9 of 10"):
            await chunks_per_s(numbers(9), 10)
        with pytest.raises(RuntimeError, match="item 0 is 1"):
            await chunks_per_s(_from_one(), 10)


async def _from_one() -> AsyncIterator[int]:
    yield 1


class TestOnACluster:
    async def test_its_pool_and_agents_are_gone_afterwards(self):
        async with LocalRuntime() as manager:
            async with deployed(manager, app, {POOL: 2}):
                handles = [manager.handle(Echo, f"{n}") for n in range(20)]
                assert await activate(handles) > 0
                assert len(await manager.agents("microbenchmark_echo")) == 20
                (pool,) = [p for p in await manager.pools() if p["name"] == POOL]
                assert pool["hosts"] == 2
            assert [pool["name"] for pool in await manager.pools()] == ["default"]
            assert await manager.agents("microbenchmark_echo") == []

    async def test_what_a_killed_run_has_left_is_replaced(self):
        async with LocalRuntime() as manager:
            await manager.add_pool(POOL, hosts=1)
            await manager.deploy(app)
            await manager.handle(Echo, "left").echo(1)
            async with deployed(manager, app, {POOL: 2}):
                assert await manager.agents("microbenchmark_echo") == []
                assert await manager.handle(Echo, "left").echo(1) == 1

    @pytest.mark.parametrize("apart", [False, True])
    async def test_streams_are_read_whole(self, apart: bool):
        async with LocalRuntime() as manager, deployed(manager, app, {POOL: 1}):
            stream = manager.handle(Echo, "stream").stream(Echo.count, 300, apart=apart)
            assert await chunks_per_s(stream, 300) > 0

    async def test_peers_call_each_other(self):
        async with LocalRuntime() as manager, deployed(manager, app, {POOL: 2}):
            peer = manager.handle(Peer, "caller")
            assert await peer.calls_per_s(["a", "b"], 2, 0.01) > 0
            assert await peer.send_p50_ms("a", np.arange(4), 3) > 0

    async def test_peers_of_one_process_are_no_measure_of_two_hosts(self):
        async with LocalRuntime() as manager, deployed(manager, app, {POOL: 2}):
            with pytest.raises(ConfigurationError, match="live on one host"):
                await peers_of_two_hosts(manager)

    async def test_growth_is_measured_over_hosts_and_agents(self):
        scale = replace(Scale.of(quick=True), seconds=0.02, growth_agents=(1, 30))
        async with LocalRuntime() as manager:
            rows = await measure_growth(manager, scale)
            assert [pool["name"] for pool in await manager.pools()] == ["default"]
        assert [row.name for row in rows] == [
            "growth_hosts_1_calls_per_s",
            "growth_hosts_2_calls_per_s",
            "growth_hosts_4_calls_per_s",
            "growth_agents_1_calls_per_s",
            "growth_agents_30_calls_per_s",
        ]
        assert all(row.value > 0 for row in rows), rows

    def test_each_agent_type_lives_where_its_name_says(self):
        assert {hosts: agent.options.pool for hosts, agent in BY_HOSTS.items()} == {
            1: "microbenchmark_1",
            2: "microbenchmark_2",
            4: "microbenchmark_4",
        }


class TestShown:
    def test_the_table_tells_what_is_not_reached(self):
        text = shown(table([CALLS, replace(CALLS, name="slow", target=at_least(40))], "machine"))
        assert "machine" in text
        calls, slow = (line for line in text.splitlines() if "calls/s" in line)
        assert "5,000 calls/s" in calls
        assert "25.00 x" in calls
        assert "≥ 20 " in calls
        assert "≥ 40: not yet" in slow

    def test_the_growth_table_has_both_series(self):
        rows = growth_rows({1: 1000.0, 2: 1500.0}, {1: 2000.0, 100_000: 1000.0})
        lines = [line for line in shown(growth_table(rows)).splitlines() if "growth_" in line]
        assert [line.split("│")[1].strip() for line in lines] == [row.name for row in rows]
        assert [line.split("│")[4].strip() for line in lines] == [
            "1.00 x",
            "1.50 x",
            "1.00 x",
            "0.50 x",
        ]


def shown(renderable: object) -> str:
    """Return what is printed."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_parts_are_chosen_by_name_and_measured_in_their_order():
    assert chosen_parts(["steps", "calls"]) == ["calls", "steps"]
    assert chosen_parts([]) == list(PARTS)
    with pytest.raises(ConfigurationError, match="'step' is nothing to measure: calls, "):
        chosen_parts(["step"])


def test_the_command_names_all_parts():
    told = CliRunner().invoke(cli, ["microbenchmark", "--help"], env={"COLUMNS": "300"})
    assert all(name in told.output for name in PARTS)
