"""What is shown and written of the figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.table import Table

from agentray.microbenchmark.rows import Row


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"Ray {version('ray')}, agentray {version('agentray')}"
    )


def table(rows: Sequence[Row], title: str) -> Table:
    """Return the figures as a table."""
    shown = Table("figure", "agentray", "baseline", "", "ratio", "to reach", title=title)
    for column in (1, 2, 4):
        shown.columns[column].justify = "right"
    for row in rows:
        shown.add_row(
            row.name,
            f"{_number(row.value)} {row.unit}",
            f"{_number(row.baseline_value)} {row.unit}",
            row.baseline,
            f"{_number(row.ratio)} x",
            row.to_reach,
        )
    return shown


def growth_table(rows: Sequence[Row]) -> Table:
    """Return the growth rows as a table: each beside the first of its series."""
    shown = Table("growth, 512 calls in flight", "agentray", "", "times")
    for column in (1, 3):
        shown.columns[column].justify = "right"
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.baseline != row.baseline:
            shown.add_section()
        shown.add_row(
            row.name, f"{_number(row.value)} {row.unit}", row.baseline, f"{_number(row.ratio)} x"
        )
    return shown


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the figures as a JSON list."""
    path.write_text(json.dumps([row.as_json() for row in rows], indent=2, allow_nan=False) + "\n")
