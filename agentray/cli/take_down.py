"""The way down: what is up is stopped, and what a command that was killed has left behind."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil

from agentray.cli.home_claim import Plan, claimed, look_for_plan
from agentray.cli.steps import Report, reported
from agentray.config import ClusterRecord, Settings
from agentray.errors import AgentrayError, ClusterNotRunning
from agentray.runtime.local_cluster import (
    LocalCluster,
    driver_environment,
    is_alive,
    stop_local_cluster,
)
from agentray.runtime.marked_processes import marked, runtime_dir_of, stop_marked
from agentray.runtime.session_dirs import forget_old_sessions, ray_dir
from agentray.store.embedded import EmbeddedPostgres

_STOP_S = 15.0
_DRAIN_S = 5.0


async def take_down(settings: Settings, report: Report) -> list[str]:
    """Stop everything; runs under way stay in the Store and go on at the next start.

    Args:
        settings: of the home.
        report: hears of each step.

    Returns:
        What could not be stopped gently, each with what was done instead.

    Raises:
        ClusterNotRunning: nothing is up.
        CommandUnderWay: something is being put up, or taken down.
    """
    nothing = "Nothing is up: there is no record of a start on this machine."
    if ClusterRecord.read(settings) is None and look_for_plan(settings.home) is None:
        raise ClusterNotRunning(nothing)
    with claimed(settings.home, "down") as claim:
        record = ClusterRecord.read(settings)
        found = claim.left is not None and await stop_left_over(settings, claim.left, report)
        claim.settle()
        if record is None:
            if not found:
                raise ClusterNotRunning(nothing)
            return []
        return await _stop_recorded(settings, record, report)


async def _stop_recorded(settings: Settings, record: ClusterRecord, report: Report) -> list[str]:
    os.environ.update(driver_environment(record.gcs_address))
    rough: list[str] = []
    cluster = cluster_of(record)
    if cluster is None or is_alive(cluster):
        await _stop_services(record, report, rough)
    if cluster is not None:
        async with reported(report, "ray cluster"):
            killed = await asyncio.to_thread(stop_local_cluster, cluster, _STOP_S)
            rough.extend(f"killed {name}" for name in killed)
            forget_old_sessions(ray_dir(settings.home))
    if record.embedded_database:
        async with reported(report, "database"):
            await asyncio.to_thread(EmbeddedPostgres(settings.postgres_dir).stop)
    settings.cluster_file.unlink(missing_ok=True)
    return rough


async def _stop_services(record: ClusterRecord, report: Report, rough: list[str]) -> None:
    """Stop gateway and manager gently; whatever fails here, their processes are ended later."""
    # In a thread, where an interrupt does not leave half of a module imported.
    await asyncio.to_thread(importlib.import_module, "agentray.gateway.deployment")
    from agentray.gateway.deployment import stop_gateway
    from agentray.runtime import ray_adapter

    try:
        ray_adapter.connect_to_ray(record.gcs_address)
    except ClusterNotRunning as error:
        rough.append(f"gateway and manager: {error}")
        return
    try:
        async with reported(report, "gateway"):
            await asyncio.to_thread(stop_gateway)
        async with reported(report, "manager"):
            await ray_adapter.RayManager.find().shutdown(_DRAIN_S)
    except AgentrayError as error:
        rough.append(f"manager: {error}")
    finally:
        ray_adapter.disconnect_from_ray()


async def stop_left_over(settings: Settings, plan: Plan, report: Report) -> bool:
    """Stop what a start that was killed, or a cluster that lost a part, has left running.

    Args:
        settings: of the home.
        plan: what had been started.
        report: hears of it, if there is anything.

    Returns:
        Whether there was anything.

    Raises:
        LocalClusterError, EmbeddedPostgresError: it cannot be stopped.
    """
    if is_gone(settings, plan):
        return False
    async with reported(report, "left over") as told:
        if plan.mark:
            count = len(marked(plan.mark))
            await asyncio.to_thread(stop_marked, plan.mark, _STOP_S)
            shutil.rmtree(runtime_dir_of(plan.mark), ignore_errors=True)
            told(f"stopped {count} processes of a start that did not come to its end")
        if plan.embedded_database:
            await asyncio.to_thread(EmbeddedPostgres(settings.postgres_dir).stop)
        forget_old_sessions(ray_dir(settings.home))
    return True


def is_gone(settings: Settings, plan: Plan) -> bool:
    """Return whether nothing of what was planned runs."""
    if plan.mark and (marked(plan.mark) or runtime_dir_of(plan.mark).exists()):
        return False
    return not (plan.embedded_database and EmbeddedPostgres(settings.postgres_dir).is_running())


def cluster_of(record: ClusterRecord) -> LocalCluster | None:
    """Return the cluster that `agentray up` started; None: it was given one that ran."""
    if not record.local_cluster:
        return None
    return LocalCluster.from_json(json.dumps(record.local_cluster))
