"""Commands about the cluster: up, down, status, agents, deploy, stop, remove."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from agentray.cli import console
from agentray.cli.command import JsonOption, ask_manager, read_settings
from agentray.cli.exits import ExitCode
from agentray.cli.options import read_pairs
from agentray.cli.signals import run_to_its_end
from agentray.config import ClusterRecord
from agentray.errors import ClusterAlreadyRunning
from agentray.ids import AgentId

ImportString = Annotated[
    str, typer.Argument(metavar="MODULE:APP", help="Where the app is, as package.module:name.")
]


def up(
    app: ImportString,
    port: Annotated[
        int | None, typer.Option(help="Port of the gateway (default: AGENTRAY_PORT, else 8000).")
    ] = None,
    hosts: Annotated[
        int | None,
        typer.Option(min=1, help="Hosts of the pool `default` (default: AGENTRAY_HOSTS, else 2)."),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Replicas of the gateway (default: AGENTRAY_REPLICAS, else 1)."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT or `auto` of a Ray cluster that runs; needs AGENTRAY_DATABASE_URL "
            "(default: a new one on this machine)."
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Remove an app first that is there; may be repeated."),
    ] = None,
) -> None:
    """Start agentray on this machine and deploy an app.

    Starts what an app needs: a database, Ray, hosts and the gateway. Where it is up already, says
    where.
    """
    settings = read_settings(port=port, hosts=hosts, replicas=replicas)
    from agentray.cli import progress, render
    from agentray.cli.stack import Stack

    stack = Stack(settings, remove=remove or ())
    try:
        with progress.shown(console.err()) as report:
            started = run_to_its_end(stack.up(app, report, address=address))
    except ClusterAlreadyRunning:
        record = ClusterRecord.read(settings)
        if record is None:  # it was taken down this very moment
            raise
        console.out().print(render.already_up(record, str(settings.key_file), app))
        return
    console.out().print(render.started(started))


def down() -> None:
    """Stop agentray on this machine.

    Runs that have not ended are kept and go on at the next start.
    """
    settings = read_settings()
    from agentray.cli import progress
    from agentray.cli.take_down import take_down

    try:
        with progress.shown(console.err()) as report:
            rough = run_to_its_end(take_down(settings, report))
    except KeyboardInterrupt:
        console.note(
            "Interrupted: the parts that are not named above as done may still be up. Run "
            "`agentray down` again to stop them."
        )
        raise
    for what in rough:
        console.note(f"not stopped gently: {what}")
    console.write("agentray is down.")


def status(as_json: JsonOption = False) -> None:
    """Show what runs: gateway, apps, pools, hosts and runs.

    Exits with 3 when nothing is running or the gateway is not ready.
    """
    settings = read_settings()
    from agentray.cli import render
    from agentray.cli.status import look

    found = asyncio.run(look(settings))
    if as_json:
        console.write_json(found.as_json())
    else:
        console.out().print(render.status(found))
    if found.missing:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def agents(
    agent_type: Annotated[
        str | None, typer.Option("--type", help="Only those of this agent type.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only launched ones with this label; repeatable."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only failed and quarantined ones, with their errors.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List agents: launched ones, newest first, and others that are in memory."""
    from agentray.cli import agents as listing
    from agentray.cli import render

    labels = read_pairs("--label", label)
    if failed:
        found = ask_manager(lambda manager: listing.look_for_failed(manager, agent_type, limit))
    else:
        found = ask_manager(lambda manager: listing.look(manager, agent_type, labels, limit))
    if as_json:
        console.write_json(found)
    else:
        console.out().print((render.failed_agents if failed else render.agents)(found))


def show_agent(
    agent: Annotated[str, typer.Argument(metavar="TYPE/KEY", help="Which agent, see `agents`.")],
    as_json: JsonOption = False,
) -> None:
    """Show how an agent is, and what was wrong with it when it failed."""
    agent_id = AgentId.parse(agent)
    from agentray.cli import render

    told = ask_manager(lambda manager: manager.handle(agent_id).status())
    if as_json:
        console.write_json(told)
    else:
        console.out().print(render.agent(told))


def reset_agent(
    agent: Annotated[str, typer.Argument(metavar="TYPE/KEY", help="See `agents --failed`.")],
) -> None:
    """Let an agent start again that has failed or is quarantined."""
    agent_id = AgentId.parse(agent)
    had_failed = ask_manager(lambda manager: manager.reset_agent(agent_id))
    console.write(
        f"{agent}: {'reset' if had_failed else 'had not failed; its errors are counted from none'}"
    )


def stop_agent(
    agent: Annotated[str, typer.Argument(metavar="TYPE/KEY", help="Which agent, see `agents`.")],
    grace: Annotated[float, typer.Option(min=0, help="Seconds for what it is doing.")] = 10.0,
    terminate: Annotated[
        bool, typer.Option("--terminate", help="Forget it, too; its state stays.")
    ] = False,
) -> None:
    """Shut an agent down: it takes no messages until it is launched again."""
    agent_id = AgentId.parse(agent)
    ask_manager(lambda manager: manager.shutdown(agent_id, grace_s=grace, terminate=terminate))
    console.write(f"{agent}: {'forgotten' if terminate else 'stopped'}")


def deploy(app: ImportString) -> None:
    """Deploy an app to the running cluster, or replace it where its code has changed."""
    from agentray.app import load_app

    name = load_app(app).name  # what is wrong with it is said before anything is connected
    console.write(f"{name}: {ask_manager(lambda manager: manager.deploy(app))}")


def stop(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's name, see `status`.")],
) -> None:
    """Stop an app: its agents take no more messages until it is deployed again."""
    ask_manager(lambda manager: manager.stop(app))
    console.write(f"{app}: stopped")


def remove(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's name, see `status`.")],
    states: Annotated[
        bool, typer.Option("--states", help="Delete what its agents keep, too; it stays otherwise.")
    ] = False,
) -> None:
    """Stop an app and forget it: its agent types are free for other apps."""
    ask_manager(lambda manager: manager.remove_app(app, delete_states=states))
    console.write(f"{app}: removed{', with its states' if states else ''}")
