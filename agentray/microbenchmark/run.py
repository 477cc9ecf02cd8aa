"""Running the measurements on the cluster that is up."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from agentray.client.access import Access
from agentray.config import ClusterRecord, Settings
from agentray.microbenchmark.agents import POOL, app
from agentray.microbenchmark.calls import measure_calls
from agentray.microbenchmark.durable import measure_durable
from agentray.microbenchmark.failover import measure_failover
from agentray.microbenchmark.growth import measure_growth
from agentray.microbenchmark.http import measure_http
from agentray.microbenchmark.in_memory import measure_in_memory
from agentray.microbenchmark.jobs import measure_jobs
from agentray.microbenchmark.moves import measure_moves
from agentray.microbenchmark.parts import PARTS, chosen_parts
from agentray.microbenchmark.peers import measure_peers
from agentray.microbenchmark.places import deployed
from agentray.microbenchmark.prompt_streams import measure_prompt_streams
from agentray.microbenchmark.rows import Row
from agentray.microbenchmark.scale import Scale
from agentray.microbenchmark.sessions import measure_sessions
from agentray.microbenchmark.step_events import measure_step_events
from agentray.microbenchmark.streams import measure_streams
from agentray.runtime.connection import connect
from agentray.runtime.manager_client import ManagerClient

_HOSTS = 2  # agents on one call agents on the other


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    rows: list[Row]
    growth: list[Row]  # empty unless it was asked for


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What is measured, and how much."""

    manager: ManagerClient
    access: Access
    scale: Scale

    @property
    def key(self) -> str:
        return self.access.api_key or ""


async def _http(of: _Cluster) -> list[Row]:
    return await measure_http(of.access.url, of.key, of.scale)


async def _prompt_streams(of: _Cluster) -> list[Row]:
    return await measure_prompt_streams(of.access.url, of.key, of.scale)


async def _jobs(of: _Cluster) -> list[Row]:
    settings = Settings()
    record = ClusterRecord.read(settings)
    if record is None:  # the job API of a cluster that others have put up is not known here
        return []
    return await measure_jobs(of.access.url, of.key, settings, record, of.scale)


async def _sessions(of: _Cluster) -> list[Row]:
    return await measure_sessions(of.manager, of.access.url, of.key, of.scale)


async def _failover(of: _Cluster) -> list[Row]:
    moved = await measure_moves(of.manager, of.scale)
    return moved + await measure_failover(of.manager, of.scale)


_MEASURES: Mapping[str, Callable[[_Cluster], Awaitable[list[Row]]]] = {
    "calls": lambda of: measure_calls(of.manager, of.scale),
    "streams": lambda of: measure_streams(of.manager, of.scale),
    "peers": lambda of: measure_peers(of.manager, of.scale),
    "http": _http,
    "prompt-streams": _prompt_streams,
    "jobs": _jobs,
    "memory": lambda of: measure_in_memory(of.manager, of.scale),
    "sessions": _sessions,
    "durable": lambda of: measure_durable(of.scale),
    "steps": lambda of: measure_step_events(of.scale),
    "failover": _failover,
}
"""By the names of `PARTS`."""


async def run(
    *, quick: bool, growth: bool, report: Callable[[str], None], only: Sequence[str] = ()
) -> Figures:
    """Measure, on hosts that are started for it and stopped afterwards.

    Args:
        quick: a first look in a minute; the figures scatter.
        growth: measure over more and more hosts and agents, too.
        report: hears what is being measured.
        only: of `PARTS`; none for all.

    Raises:
        ClusterNotRunning: nothing is up.
        ConfigurationError: `only` has a name of nothing.
    """
    scale, chosen = Scale.of(quick=quick), chosen_parts(only)
    async with connect() as manager:
        report("hosts that start")
        async with deployed(manager, app, {POOL: _HOSTS}):
            rows = await _measure(_Cluster(manager, Access.find(), scale), chosen, report)
        if not growth:
            return Figures(rows, [])
        report("growth")
        return Figures(rows, await measure_growth(manager, scale))


async def _measure(
    cluster: _Cluster, chosen: Sequence[str], report: Callable[[str], None]
) -> list[Row]:
    # What has been imported here, Ray Serve among it, is not what is measured.
    gc.collect()
    gc.freeze()
    rows: list[Row] = []
    for name in chosen:
        report(PARTS[name])
        rows += await _MEASURES[name](cluster)
    return rows
