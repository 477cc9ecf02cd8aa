"""The command that ends what is left over: actors and rows of hosts, processes without a home."""

from __future__ import annotations

from typing import Annotated

import typer

from agentray.cli import console
from agentray.cli.command import JsonOption, ask_manager
from agentray.core.orphans import Orphan
from agentray.errors import ClusterNotRunning

_STOP_S = 15.0


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is; change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """End what is left over: hosts that nobody supervises, processes of clusters without a home.

    Says what and why. What might be somebody else's is not touched.
    """
    found = [*_of_the_cluster(dry_run), *_of_this_machine(dry_run)]
    if as_json:
        console.write_json(found)
        return
    for orphan in found:
        done = "would be ended" if dry_run else "ended"
        console.write(f"{orphan['kind']} {orphan['name']}: {done}, because {orphan['why']}")
    if not found:
        console.write("Nothing is left over.")


def _of_the_cluster(dry_run: bool) -> list[dict[str, str]]:
    """Ask the manager; without a cluster there is nothing that it could find."""
    try:
        return ask_manager(lambda manager: manager.gc(dry_run=dry_run))
    except ClusterNotRunning as error:
        console.note(f"Only this machine's processes are looked at: {error}")
        return []


def _of_this_machine(dry_run: bool) -> list[dict[str, str]]:
    from agentray.runtime.marked_processes import homeless, marked, stop_marked

    found: list[dict[str, str]] = []
    for mark, home in homeless().items():
        why = f"the home of these {len(marked(mark))} processes, {home}, is gone"
        if not dry_run:
            stop_marked(mark, _STOP_S)
        found.append(Orphan("processes", mark, why).as_json())
    return found
