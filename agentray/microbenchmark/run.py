"""Running all measurements on the cluster that is up."""

from __future__ import annotations

import gc
from collections.abc import Callable
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


async def run(*, quick: bool, growth: bool, report: Callable[[str], None]) -> Figures:
    """Measure everything, on hosts that are started for it and stopped afterwards.

    Args:
        quick: a first look in a minute; the figures scatter.
        growth: measure over more and more hosts and agents, too.
        report: hears what is being measured.

    Raises:
        ClusterNotRunning: nothing is up.
    """
    scale = Scale.of(quick=quick)
    async with connect() as manager:
        report("hosts that start")
        async with deployed(manager, app, {POOL: _HOSTS}):
            rows = await _measure(manager, scale, report)
        if not growth:
            return Figures(rows, [])
        report("growth")
        return Figures(rows, await measure_growth(manager, scale))


async def _measure(
    manager: ManagerClient, scale: Scale, report: Callable[[str], None]
) -> list[Row]:
    access = Access.find()
    # What has been imported here, Ray Serve among it, is not what is measured.
    gc.collect()
    gc.freeze()
    report("calls")
    rows = await measure_calls(manager, scale)
    report("streams")
    rows += await measure_streams(manager, scale)
    report("agents that call agents")
    rows += await measure_peers(manager, scale)
    report("prompts over HTTP")
    rows += await measure_http(access.url, access.api_key or "", scale)
    report("prompts that are followed")
    rows += await measure_prompt_streams(access.url, access.api_key or "", scale)
    record = ClusterRecord.read(Settings())
    if record is not None:  # the job API of a cluster that others have put up is not known here
        report("logs of jobs")
        key = access.api_key or ""
        rows += await measure_jobs(access.url, key, record.dashboard_url, scale)
    report("agents in memory")
    rows += await measure_in_memory(manager, scale)
    report("sessions")
    rows += await measure_sessions(manager, access.url, access.api_key or "", scale)
    report("durable prompts")
    rows += await measure_durable(scale)
    report("events durable per step")
    rows += await measure_step_events(scale)
    report("hosts that are killed")
    rows += await measure_moves(manager, scale)
    rows += await measure_failover(manager, scale)
    return rows
