"""The command that measures the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentray import event_loop
from agentray.cli import console


def microbenchmark(
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look in a minute; the figures scatter.")
    ] = False,
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Also over 1 to 4 hosts, and over 1 to 100,000 agents."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Measure this alone; may be given again. calls, streams, peers, http, "
            "prompt-streams, jobs, memory, sessions, durable, steps, failover.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Measure calls, streams, prompts and agents on the running cluster.

    On hosts of their own, which are started for it and stopped afterwards. Each figure stands
    beside its baseline from the same run: a bare Ray actor, or an endpoint on Ray Serve that does
    nothing; with --growth, the smallest number of hosts or agents.
    """
    from agentray.microbenchmark import run, show

    def report(what: str) -> None:
        console.err().print(f"measuring {what} …")

    measured = run.run(quick=quick, growth=growth, report=report, only=only or ())
    figures = event_loop.run(measured)
    console.out().print(show.table(figures.rows, show.machine()))
    if figures.growth:
        console.out().print(show.growth_table(figures.growth))
    if json is not None:
        show.write_json([*figures.rows, *figures.growth], json)
