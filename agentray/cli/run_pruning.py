"""The command `runs prune`: forgets runs that ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from agentray.cli import console
from agentray.cli.command import JsonOption, ask_manager
from agentray.cli.times import read_seconds
from agentray.protocol.runs import RunStatus


def prune(
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Since their end: 36h, 30d; at least 1d.")
    ],
    status: Annotated[
        RunStatus | None, typer.Option(help="Only those that ended in this status.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget runs that ended long ago, with their events and traces."""
    age = timedelta(seconds=read_seconds("--older-than", older_than))
    counted = ask_manager(lambda manager: manager.prune_runs(age, status=status, dry_run=dry_run))
    found = {of.value: count for of, count in counted.items()}
    if as_json:
        console.write_json({"dry_run": dry_run, "runs": found})
        return
    told = ", ".join(f"{count} {of}" for of, count in found.items()) or "no runs"
    console.write(f"would forget {told}" if dry_run else f"forgot {told}")
