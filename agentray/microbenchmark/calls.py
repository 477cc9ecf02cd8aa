"""Rows of calls and of agents in memory, against bare Ray actors."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from agentray.handle import Handle
from agentray.microbenchmark.agents import Echo, Sleeper
from agentray.microbenchmark.rows import Row, in_turn, median_ms, per_second, sequential_p50_ms
from agentray.runtime.manager_client import ManagerClient

BARE = "bare Ray async-actor call"
SLOW_CALLS = 200
FAST_CALLS = 300


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured; the quick one is for a first look."""

    rounds: int
    seconds: float  # of each throughput measurement
    sequential: int  # calls
    activations: int
    idle_agents: int
    actors: int  # for the baseline of one actor per agent

    @classmethod
    def of(cls, *, quick: bool) -> Scale:
        """Return the quick scale or the full one."""
        if quick:
            return cls(1, 1.0, 200, 5_000, 20_000, 2)
        return cls(5, 2.0, 400, 20_000, 100_000, 6)


class BareActor:
    """What a user of plain Ray would write."""

    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    async def doze(self, seconds: float) -> float:
        """Wait, then return the seconds."""
        await asyncio.sleep(seconds)
        return seconds

    def pid(self) -> int:
        """Return the process's id."""
        import os

        return os.getpid()


async def measure_calls(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure calls one by one, many at once, and fast ones behind slow ones."""
    actor: Any = ray.remote(BareActor).options(num_cpus=0, max_concurrency=2000).remote()
    echo = manager.handle(Echo, "calls")
    sleeper: Handle[Sleeper] = manager.handle(Sleeper, "calls")

    async def bare() -> Any:
        return await actor.echo.remote(1)

    async def ours() -> Any:
        return await echo.echo(1)

    await asyncio.gather(*(bare() for _ in range(64)), *(ours() for _ in range(64)))
    rows = [await _sequential(ours, bare, scale)]
    for in_flight, target in ((64, "≥ 15"), (512, "≥ 30")):
        value, baseline = await in_turn(
            lambda n=in_flight: per_second(ours, n, scale.seconds),
            lambda n=in_flight: per_second(bare, n, scale.seconds),
            scale.rounds,
        )
        rows.append(
            Row(f"call_inflight{in_flight}_per_s", value, "calls/s", BARE, baseline, target)
        )
    rows.extend(await _behind_slow(ours, sleeper, bare, actor, scale))
    ray.kill(actor)
    return rows


async def _sequential(
    ours: Callable[[], Awaitable[Any]], bare: Callable[[], Awaitable[Any]], scale: Scale
) -> Row:
    value, baseline = await in_turn(
        lambda: sequential_p50_ms(ours, scale.sequential),
        lambda: sequential_p50_ms(bare, scale.sequential),
        scale.rounds,
    )
    return Row("call_sequential_p50_ms", value, "ms", BARE, baseline, "≤ 1.2")


async def _behind_slow(
    ours: Callable[[], Awaitable[Any]],
    sleeper: Handle[Sleeper],
    bare: Callable[[], Awaitable[Any]],
    actor: Any,
    scale: Scale,
) -> list[Row]:
    """Measure fast calls while one-second calls to the same process are under way."""

    async def loaded(
        slow: Callable[[], Awaitable[Any]], fast: Callable[[], Awaitable[Any]]
    ) -> float:
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
        Row(name, value, "ms", f"{BARE} behind as many", baseline),
        Row(name, value, "ms", "the same call, unloaded", unloaded, "≤ 2"),
    ]


async def measure_agents(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure how fast agents are activated, and what an idle one costs."""
    per_s, actor_bytes = await _one_actor_per_agent(scale.actors)
    await _activate(manager, "warm", 2_000)
    rate = await _activate(manager, "rate", scale.activations)
    before = await _host_bytes(manager)
    await _activate(manager, "idle", scale.idle_agents)
    per_agent = (await _host_bytes(manager) - before) / scale.idle_agents
    baseline = "one Ray actor per agent"
    return [
        Row("activate_agents_per_s", rate, "agents/s", baseline, per_s, "≥ 10,000 agents/s"),
        Row("idle_agent_bytes", per_agent, "bytes", baseline, actor_bytes, "≤ 3,000 bytes"),
    ]


async def _activate(manager: ManagerClient, prefix: str, count: int) -> float:
    """Call so many agents for the first time; return agents per second."""
    keys = iter(range(count))

    async def caller() -> None:
        for key in keys:
            await manager.handle(Echo, f"{prefix}-{key}").echo(key)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(1024)))
    return count / (time.perf_counter() - begun)


async def _host_bytes(manager: ManagerClient) -> int:
    """Return the private memory of all hosts."""
    hosts = (await manager.status())["hosts"]
    return sum(psutil.Process(host["pid"]).memory_full_info().uss for host in hosts)


async def _one_actor_per_agent(count: int) -> tuple[float, float]:
    """Start bare actors; return actors per second and the private bytes of one."""
    begun = time.perf_counter()
    actors: list[Any] = [ray.remote(BareActor).options(num_cpus=0).remote() for _ in range(count)]
    pids = await asyncio.gather(*(actor.pid.remote() for actor in actors))
    per_s = count / (time.perf_counter() - begun)
    private = [psutil.Process(pid).memory_full_info().uss for pid in pids]
    for actor in actors:
        ray.kill(actor)
    return per_s, sum(private) / count
