"""The command that measures the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentray import event_loop
from agentray.cli import console


def microbenchmark(
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look in half a minute; the figures scatter.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Measure calls, prompts and agents on the running cluster.

    Each figure stands beside its baseline from the same run: a bare Ray actor, or an endpoint on
    Ray Serve that does nothing.
    """
    from agentray.microbenchmark import run

    def report(what: str) -> None:
        console.err().print(f"measuring {what} …")

    rows = event_loop.run(run.run(quick=quick, report=report))
    console.out().print(run.table(rows))
    if json is not None:
        run.write_json(rows, json)
