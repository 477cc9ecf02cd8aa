"""Rows of what is killed: hosts of a pool of the benchmark's own, and the manager.

A host's death is timed from `kill -9` to the answers of all its agents that are called, with the
state that was committed before. The bare Ray actor beside it restarts in place, and its state is
lost. The manager is that of the cluster: it comes back, and agents go on meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from agentray.errors import AgentrayError, ConfigurationError
from agentray.microbenchmark.agents import FAILOVER_POOL, Echo, Survivor, failover_app
from agentray.microbenchmark.baselines import restarting_actor
from agentray.microbenchmark.places import deployed
from agentray.microbenchmark.rows import Row, at_most, percentile
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_HOSTS = 2
_AGENTS = 16
_WHOLE_S = 120.0
_LOOK_S = 0.1
_CALLERS = 8
_PAUSE_S = 0.002  # between two calls of one caller: thousands in all, and the manager gets its turn
_BACK_S = 120.0


async def measure_failover(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Kill hosts, a bare actor, and the manager."""
    async with deployed(manager, failover_app, {FAILOVER_POOL: _HOSTS}):
        times = [await _kill_host(manager) for _ in range(scale.kills)]
    bare = await _kill_bare_actor(scale.bare_kills)
    failed, sent = await _kill_manager(manager)
    other = "bare Ray actor with max_restarts=-1, without its state"
    return [
        _row("failover_p50_ms", 50, times, bare, other, 150),
        _row("failover_p99_ms", 99, times, bare, other, 500),
        Row(
            *("manager_kill_failed_messages", failed, "messages", "sent meanwhile", sent),
            at_most(0, of="value"),
        ),
    ]


def _row(
    name: str, percent: int, times: Sequence[float], bare: Sequence[float], other: str, most: int
) -> Row:
    value, baseline = (percentile(taken, percent) * 1000 for taken in (times, bare))
    return Row(name, value, "ms", other, baseline, at_most(most, of="value"))


async def _kill_host(manager: ManagerClient) -> float:
    """Kill a host of the pool; return the seconds until all its agents have answered.

    Raises:
        ConfigurationError: it is on another machine.
        RuntimeError: an agent has come back without its state.
    """
    await _until_whole(manager)
    agents = [manager.handle(Survivor, f"{number}") for number in range(_AGENTS)]
    places = await asyncio.gather(*(agent.place() for agent in agents))
    machine, pid = places[0]
    if machine != socket.gethostname():
        raise ConfigurationError(
            "The benchmark kills hosts, and can only do so on the machine that it runs on."
        )
    struck = [agent for agent, place in zip(agents, places, strict=True) if place[1] == pid]
    before = await asyncio.gather(*(agent.count() for agent in struck))
    begun = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    after = await asyncio.gather(*(agent.count() for agent in struck))
    taken = time.perf_counter() - begun
    if any(now <= then for now, then in zip(after, before, strict=True)):
        raise RuntimeError(f"Agents came back without their state: {before}, then {after}.")
    return taken


async def _until_whole(manager: ManagerClient) -> None:
    """Wait until the pool has all its hosts, each with its share of the slots."""
    async with asyncio.timeout(_WHOLE_S):
        while True:
            hosts = [h for h in (await manager.status())["hosts"] if h["pool"] == FAILOVER_POOL]
            live = [h for h in hosts if h["status"] == "live" and h.get("slots", 0) > 0]
            if len(hosts) == len(live) == _HOSTS:
                return
            await asyncio.sleep(_LOOK_S)


async def _kill_bare_actor(kills: int) -> list[float]:
    """Return the seconds from each kill of a bare actor to its next answer."""
    times: list[float] = []
    with restarting_actor() as actor:
        for _ in range(kills):
            pid: int = await actor.pid.remote()
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while await _pid_of(actor) == pid:  # noqa: ASYNC110 - another process is asked
                await asyncio.sleep(_PAUSE_S)
            times.append(time.perf_counter() - begun)
    return times


async def _pid_of(actor: Any) -> int:
    return await actor.pid.remote()


async def _kill_manager(manager: ManagerClient) -> tuple[int, int]:
    """Kill the manager under load; return the calls that failed until it was back, and all."""
    before: int = (await manager.status())["pid"]
    back = asyncio.Event()
    sent = failed = 0

    async def caller(number: int) -> None:
        nonlocal sent, failed
        agent = manager.handle(Echo, f"manager-kill-{number}")
        while not back.is_set():
            sent += 1
            try:
                if await agent.echo(sent) < 0:
                    failed += 1
            except AgentrayError:
                failed += 1
            await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for number in range(_CALLERS):
            group.create_task(caller(number))
        try:
            os.kill(before, signal.SIGKILL)
            async with asyncio.timeout(_BACK_S):
                while (await manager.status())["pid"] == before:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_LOOK_S)
        finally:
            back.set()
    return failed, sent
