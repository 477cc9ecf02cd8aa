"""The `agentray` command.

Imports at module level are light, so that `--help` and completion are quick: each command imports
what it needs when it runs. Exit codes are in `agentray.cli.exits`.
"""

from __future__ import annotations

import gc
from typing import Annotated

import typer

import agentray
from agentray.cli import (
    cluster,
    cluster_views,
    console,
    doctor,
    events,
    jobs,
    keys,
    leftovers,
    letters,
    measure,
    moves,
    pools,
    requests,
    run_pruning,
    runs,
    schedules,
    sessions,
    states,
    traces,
    webhooks,
)
from agentray.cli.command import Command, CommandGroup

app = typer.Typer(
    name="agentray",
    help="Agents on Ray: start a cluster, prompt its agents, see what their runs came to.",
    no_args_is_help=True,
    # Errors are told by `Command`; typer's own tracebacks show local variables, keys among them.
    pretty_exceptions_enable=False,
)

COMMANDS = (
    cluster.up,
    runs.prompt,
    cluster.status,
    cluster.agents,
    runs.run,
    runs.cancel,
    runs.answer,
    traces.trace,
    traces.traces,
    cluster.deploy,
    cluster.stop,
    cluster.remove,
    cluster.down,
    doctor.doctor,
    leftovers.gc,
    measure.microbenchmark,
)
"""Each is a function; its name, with `-` for `_`, is the command's, its docstring the help."""

_runs = typer.Typer(cls=CommandGroup, invoke_without_command=True)
_runs.callback()(runs.runs)
_runs.command("list", cls=Command, help="List them, as `runs` alone does.")(runs.runs)
_runs.command(cls=Command)(run_pruning.prune)

for _command in COMMANDS:
    app.command(cls=Command)(_command)
app.add_typer(_runs, name="runs")
app.add_typer(sessions.group)
app.add_typer(requests.group)
app.add_typer(schedules.group)
app.add_typer(pools.group)
app.add_typer(moves.host)
app.add_typer(moves.node)
app.add_typer(events.group)
app.add_typer(letters.group)
app.add_typer(webhooks.group)
app.add_typer(jobs.group)
app.add_typer(cluster_views.nodes)
app.add_typer(cluster_views.tasks)
app.add_typer(cluster_views.actors)
app.add_typer(cluster_views.serve)
app.add_typer(keys.group)

app.add_typer(states.group, name="state")

_agent = typer.Typer(help="One agent.", no_args_is_help=True)
_agent.command("show", cls=Command)(cluster.show_agent)
_agent.command("reset", cls=Command)(cluster.reset_agent)
_agent.command("stop", cls=Command)(cluster.stop_agent)
_agent.command("move", cls=Command)(moves.move_agent)
app.add_typer(_agent, name="agent")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.write(f"agentray {agentray.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="AGENTRAY_DEBUG", help="Show where errors come from."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(help="A gateway of AGENTRAY_HOME/profiles.toml, by its name."),
    ] = None,
) -> None:
    """Take the options that all commands have; `Command` and `Target` look at them."""
    del version, debug, profile


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        # The process ends: a last collection of all that was imported would take a quarter of a
        # second, and free nothing that the system does not free anyway.
        gc.freeze()
