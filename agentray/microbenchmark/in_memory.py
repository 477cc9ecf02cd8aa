"""Rows of agents in memory: how fast they get there, and what they take when they are idle."""

from __future__ import annotations

import asyncio
import time

import psutil

from agentray.microbenchmark.agents import POOL, Echo
from agentray.microbenchmark.baselines import bare_actors
from agentray.microbenchmark.places import activate, host_bytes
from agentray.microbenchmark.rows import Row, at_least, at_most
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_MB = 1_000_000
_ALLOWED_BYTES = 5_000  # per agent: 200,000 in less than 1,000 MB


async def measure_in_memory(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure how fast agents are activated, and the private memory of idle ones."""
    actors_per_s, actor_bytes = await _one_actor_per_agent(scale.actors)
    await _activate(manager, "warm", 2_000)
    agents_per_s = await _activate(manager, "rate", scale.activations)
    before = await host_bytes(manager, POOL)
    await _activate(manager, "idle", scale.idle_agents)
    grown = await host_bytes(manager, POOL) - before
    return [
        Row(
            "activate_agents_per_s",
            agents_per_s,
            "agents/s",
            "one Ray actor per agent",
            actors_per_s,
            at_least(20_000, of="value"),
        ),
        *idle_rows(scale.idle_agents, grown, actor_bytes, scale.actors),
    ]


def idle_rows(agents: int, grown: int, actor_bytes: float, actors: int) -> list[Row]:
    """Return what idle agents take, per agent and all together; the names tell how many.

    Args:
        agents: how many.
        grown: bytes that the hosts grew by.
        actor_bytes: of one Ray actor.
        actors: that were measured for it.
    """
    return [
        Row(
            "idle_agent_bytes",
            grown / agents,
            "bytes",
            "one Ray actor per agent",
            actor_bytes,
            at_most(3_000, of="value"),
        ),
        Row(
            f"idle_{agents // 1000}k_mb",
            grown / _MB,
            "MB",
            f"as many Ray actors, reckoned from {actors}",
            actor_bytes * agents / _MB,
            at_most(agents * _ALLOWED_BYTES // _MB, of="value"),
        ),
    ]


async def _activate(manager: ManagerClient, prefix: str, count: int) -> float:
    """Call so many agents for the first time; return agents per second."""
    return await activate(manager.handle(Echo, f"{prefix}-{key}") for key in range(count))


async def _one_actor_per_agent(count: int) -> tuple[float, float]:
    """Start bare actors; return actors per second and the private bytes of one."""
    begun = time.perf_counter()
    with bare_actors(count, max_concurrency=1000) as actors:
        pids = await asyncio.gather(*(actor.pid.remote() for actor in actors))
        per_s = count / (time.perf_counter() - begun)
        private = [psutil.Process(pid).memory_full_info().uss for pid in pids]
    return per_s, sum(private) / count
