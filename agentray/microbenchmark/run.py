"""Running all measurements on the cluster that is up."""

from __future__ import annotations

import gc
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.table import Table

from agentray.client.access import Access
from agentray.microbenchmark.agents import app
from agentray.microbenchmark.calls import Scale, measure_agents, measure_calls
from agentray.microbenchmark.http import measure_http
from agentray.microbenchmark.rows import Row
from agentray.runtime.connection import connect


async def run(*, quick: bool, report: Callable[[str], None]) -> list[Row]:
    """Measure everything.

    Args:
        quick: a first look in half a minute; the figures scatter.
        report: hears what is being measured.

    Raises:
        ClusterNotRunning: nothing is up.
    """
    scale = Scale.of(quick=quick)
    access = Access.find()
    async with connect() as manager:
        await manager.deploy(app)
        # What has been imported here, Ray Serve among it, is not what is measured.
        gc.collect()
        gc.freeze()
        report("calls")
        rows = await measure_calls(manager, scale)
        report("prompts over HTTP")
        rows += await measure_http(access.url, access.api_key or "", scale)
        report("agents")
        rows += await measure_agents(manager, scale)
        await manager.stop(app.name)
    return rows


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"Ray {version('ray')}, agentray {version('agentray')}"
    )


def table(rows: Sequence[Row]) -> Table:
    """Return the figures as a table."""
    shown = Table("figure", "agentray", "baseline", "", "ratio", "to reach", title=machine())
    for column in (1, 2, 4):
        shown.columns[column].justify = "right"
    for row in rows:
        shown.add_row(
            row.name,
            f"{_number(row.value)} {row.unit}",
            f"{_number(row.baseline_value)} {row.unit}",
            row.baseline,
            f"{_number(row.ratio)} x",
            row.target,
        )
    return shown


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the figures as a JSON list."""
    path.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
