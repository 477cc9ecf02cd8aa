"""Rows of calls from the driver: one by one, many at once, and fast ones behind slow ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentray.handle import Handle
from agentray.microbenchmark.agents import Echo, Sleeper
from agentray.microbenchmark.baselines import BARE_CALL, bare_actors
from agentray.microbenchmark.rows import (
    Row,
    at_least,
    at_most,
    in_turn,
    median_ms,
    per_second,
    sequential_p50_ms,
)
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

SLOW_CALLS = 200
FAST_CALLS = 300

Call = Callable[[], Awaitable[Any]]


async def measure_calls(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure calls to one agent, against calls to one bare actor."""
    echo = manager.handle(Echo, "calls")
    sleeper = manager.handle(Sleeper, "calls")
    with bare_actors(1) as (actor,):

        async def bare() -> Any:
            return await actor.echo.remote(1)

        async def ours() -> Any:
            return await echo.echo(1)

        await asyncio.gather(*(bare() for _ in range(64)), *(ours() for _ in range(64)))
        rows = [await _sequential(ours, bare, scale)]
        rows.append(await _at_once(64, 20, ours, bare, scale))
        rows.append(await _at_once(512, 40, ours, bare, scale))
        rows.extend(await _behind_slow(ours, sleeper, bare, actor, scale))
    return rows


async def _sequential(ours: Call, bare: Call, scale: Scale) -> Row:
    value, baseline = await in_turn(
        lambda: sequential_p50_ms(ours, scale.sequential),
        lambda: sequential_p50_ms(bare, scale.sequential),
        scale.rounds,
    )
    return Row("call_sequential_p50_ms", value, "ms", BARE_CALL, baseline, at_most(1.15))


async def _at_once(in_flight: int, target: float, ours: Call, bare: Call, scale: Scale) -> Row:
    value, baseline = await in_turn(
        lambda: per_second(ours, in_flight, scale.seconds),
        lambda: per_second(bare, in_flight, scale.seconds),
        scale.rounds,
    )
    name = f"call_inflight{in_flight}_per_s"
    return Row(name, value, "calls/s", BARE_CALL, baseline, at_least(target))


async def _behind_slow(
    ours: Call, sleeper: Handle[Sleeper], bare: Call, actor: Any, scale: Scale
) -> list[Row]:
    """Measure fast calls while one-second calls to the same process are under way."""

    async def loaded(slow: Call, fast: Call) -> float:
        sleeping = asyncio.gather(*(slow() for _ in range(SLOW_CALLS)))
        await asyncio.sleep(0.05)  # they have arrived
        times: list[float] = []
        while not sleeping.done() and len(times) < FAST_CALLS:
            begun = time.perf_counter()
            await fast()
            times.append(time.perf_counter() - begun)
        await sleeping
        return median_ms(times)

    async def bare_doze() -> Any:
        return await actor.doze.remote(1.0)

    value, baseline = await in_turn(
        lambda: loaded(lambda: sleeper.doze(1.0), ours),
        lambda: loaded(bare_doze, bare),
        scale.rounds,
    )
    unloaded = await sequential_p50_ms(ours, scale.sequential)
    name = "fast_behind_slow_p50_ms"
    return [
        Row(name, value, "ms", f"{BARE_CALL} behind as many", baseline),
        Row(name, value, "ms", "the same call, unloaded", unloaded, at_most(2)),
    ]
