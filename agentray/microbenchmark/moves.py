"""The row of planned moves: how much later calls are answered while their slot changes its host."""

from __future__ import annotations

import asyncio
import itertools
import time

from agentray.ids import AgentId, slot_of
from agentray.microbenchmark.agents import FAILOVER_POOL, Survivor, failover_app
from agentray.microbenchmark.places import deployed
from agentray.microbenchmark.rows import Row, at_most, percentile
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_CALLERS = 8
_PAUSE_S = 0.002
_START_S = 60.0
_QUIET_S = 0.25
"""Between two moves: calls begun then are the baseline."""


async def measure_moves(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Move a slot to and fro between two hosts while its agents are called."""
    async with deployed(manager, failover_app, {FAILOVER_POOL: 2}):
        calm, moved = await _move(manager, max(scale.kills, 4))
    added = percentile(moved, 99) - percentile(calm, 99)
    return [
        Row(
            "planned_move_p99_added_ms",
            added * 1000,
            "ms",
            "p99 of the same calls between the moves",
            percentile(calm, 99) * 1000,
            at_most(100, of="value"),
        )
    ]


async def _move(manager: ManagerClient, moves: int) -> tuple[list[float], list[float]]:
    """Return the seconds of calls begun between moves, and of those begun during them."""
    name = Survivor.agent_type.name
    keys = (str(number) for number in itertools.count())
    slot = slot_of(AgentId(name, "0"))
    agents = list(
        itertools.islice((key for key in keys if slot_of(AgentId(name, key)) == slot), _CALLERS)
    )
    hosts = await _live_hosts(manager)
    calm: list[float] = []
    moved: list[float] = []
    into, ended = calm, False

    async def call(key: str) -> None:
        agent = manager.handle(Survivor, key)
        while not ended:
            taken, begun = into, time.perf_counter()
            await agent.count()
            taken.append(time.perf_counter() - begun)
            await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        await manager.move_slots([slot], hosts[0], pool=FAILOVER_POOL)
        await asyncio.gather(*(manager.handle(Survivor, key).count() for key in agents))
        for key in agents:
            group.create_task(call(key))
        for number in range(moves):
            await asyncio.sleep(_QUIET_S)
            into = moved
            await manager.move_slots([slot], hosts[(number + 1) % 2], pool=FAILOVER_POOL)
            into = calm
        ended = True
    await manager.balance_pool(FAILOVER_POOL)
    return calm, moved


async def _live_hosts(manager: ManagerClient) -> list[str]:
    """Return the two hosts of the pool, when both take slots."""
    async with asyncio.timeout(_START_S):
        while True:
            hosts = (await manager.status())["hosts"]
            ours = [host for host in hosts if host["pool"] == FAILOVER_POOL]
            live = [host["id"] for host in ours if host["status"] == "live"]
            if len(live) > 1:
                return live
            await asyncio.sleep(_PAUSE_S)
