"""The growth table: calls per second over more and more hosts, and more and more agents."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from agentray.handle import Handle
from agentray.microbenchmark.agents import BY_HOSTS, OnOneHost, growth_app
from agentray.microbenchmark.places import activate, deployed
from agentray.microbenchmark.rows import Measurement, Row, medians, per_second, series
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_IN_FLIGHT = 512
_AGENTS = 512  # over the hosts
_HOSTS = 2  # under the agents


async def measure_growth(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure calls round robin, 512 at once, on pools that are there for it alone."""
    pools = {agent.options.pool: hosts for hosts, agent in BY_HOSTS.items()}
    async with deployed(manager, growth_app, pools):
        by_hosts = [
            await _measurement(manager, agent, _AGENTS, scale) for agent in BY_HOSTS.values()
        ]
        hosts = await medians(by_hosts, scale.rounds)
        by_agents = [
            await _measurement(manager, BY_HOSTS[_HOSTS], count, scale)
            for count in scale.growth_agents
        ]
        agents = await medians(by_agents, scale.rounds)
    return growth_rows(
        dict(zip(BY_HOSTS, hosts, strict=True)),
        dict(zip(scale.growth_agents, agents, strict=True)),
    )


def growth_rows(by_hosts: dict[int, float], by_agents: dict[int, float]) -> list[Row]:
    """Return the rows of both series, from calls per second by the number of hosts and agents."""
    return [
        *series("growth_hosts_{}_calls_per_s", "calls/s", "host", by_hosts),
        *series("growth_agents_{}_calls_per_s", "calls/s", "agent", by_agents),
    ]


async def _measurement(
    manager: ManagerClient, agent: type[OnOneHost], count: int, scale: Scale
) -> Measurement:
    """Return what measures calls of so many agents, which are in memory then."""
    handles = [manager.handle(agent, f"{number}") for number in range(count)]
    await activate(handles)
    return lambda: _round_robin(handles, scale.seconds)


async def _round_robin(handles: Sequence[Handle[OnOneHost]], seconds: float) -> float:
    following = itertools.cycle(handles)

    async def call() -> Any:
        return await next(following).echo(1)

    return await per_second(call, _IN_FLIGHT, seconds)
