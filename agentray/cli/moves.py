"""Commands about hosts and machines, and about who leases which slots."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, ask_manager
from agentray.cli.pools import Name
from agentray.cli.pools import group as pool
from agentray.errors import ConfigurationError

Wait = Annotated[
    float,
    typer.Option("--wait", "--timeout", min=0, help="Seconds to wait; what was asked for goes on."),
]
Node = Annotated[str, typer.Argument(metavar="NODE", help="Its id, or how that begins.")]
To = Annotated[str, typer.Option("--to", metavar="HOST", help="The host, see `host list`.")]

host = typer.Typer(name="host", help="Hosts: the processes of agents.", no_args_is_help=True)
node = typer.Typer(name="node", help="Nodes: the machines of the cluster.", no_args_is_help=True)


def _report(what: str, told: dict[str, Any]) -> None:
    if told["drained"]:
        console.write(f"{what}: drained")
        return
    console.write(f"{what}: still drains: {told['waiting']}")
    raise typer.Exit(1)


@host.command("list", cls=Command)
def list_hosts(as_json: JsonOption = False) -> None:
    """List the hosts."""
    from agentray.cli import render

    found: list[dict[str, Any]] = ask_manager(lambda manager: manager.status())["hosts"]
    if as_json:
        console.write_json(found)
    else:
        console.out().print(render.hosts(found))


@host.command("drain", cls=Command)
def drain_host(
    name: Annotated[str, typer.Argument(metavar="HOST", help="Its id, see `host list`.")],
    wait: Wait = 120.0,
) -> None:
    """Replace a host by a fresh one: what its agents do ends first."""
    console.note(f"waits at most {wait:g} s for it (--timeout); the drain goes on after that")
    _report(name, ask_manager(lambda manager: manager.drain_host(name, timeout=wait)))


@node.command("list", cls=Command)
def list_nodes(as_json: JsonOption = False) -> None:
    """List the machines, with the hosts that are on them."""
    from agentray.cli import render

    found = ask_manager(lambda manager: manager.nodes())
    if as_json:
        console.write_json(found)
    else:
        console.out().print(render.nodes(found))


@node.command("drain", cls=Command)
def drain_node(name: Node, wait: Wait = 120.0) -> None:
    """Let all hosts leave a machine; none is placed there until `node undrain`."""
    console.note(f"waits at most {wait:g} s for it (--timeout); the drain goes on after that")
    _report(name, ask_manager(lambda manager: manager.drain_node(name, timeout=wait)))


@node.command("undrain", cls=Command)
def undrain_node(name: Node) -> None:
    """Let hosts be placed on a machine again."""
    ask_manager(lambda manager: manager.undrain_node(name))
    console.write(f"{name}: hosts may be placed here")


@pool.command("scale", cls=Command)
def scale(
    name: Name,
    hosts: Annotated[
        str, typer.Argument(metavar="HOSTS", help="How many, or `auto`: as its limits say.")
    ],
    wait: Wait = 120.0,
) -> None:
    """Let a pool have so many hosts, whatever its limits are, until `auto` is said."""
    from agentray.cli import render

    if hosts != "auto" and not (hosts.isdigit() and int(hosts)):
        raise ConfigurationError(f"{hosts}: write how many hosts, as 3, or auto.")
    count = None if hosts == "auto" else int(hosts)
    console.out().print(
        render.pools([ask_manager(lambda manager: manager.scale_pool(name, count, timeout=wait))])
    )


@pool.command("move", cls=Command)
def move(
    name: Name,
    slots: Annotated[list[int], typer.Argument(metavar="SLOTS...", help="Numbers, 0 to 255.")],
    to: To,
    wait: Wait = 120.0,
) -> None:
    """Give slots of a pool to one of its hosts, for as long as that lives."""
    _tell_moved(ask_manager(lambda manager: manager.move_slots(slots, to, pool=name, timeout=wait)))


@pool.command("balance", cls=Command)
def balance(name: Name) -> None:
    """Spread the slots of a pool evenly again, after moves by hand."""
    forgotten = ask_manager(lambda manager: manager.balance_pool(name))
    console.write(f"{name}: {forgotten} slots are not held by hand any more")


def move_agent(
    agent: Annotated[str, typer.Argument(metavar="TYPE/KEY", help="The agent.")],
    to: To,
    wait: Wait = 120.0,
) -> None:
    """Give the slot of an agent to a host, for as long as that lives."""
    _tell_moved(ask_manager(lambda manager: manager.move_agent(agent, to, timeout=wait)))


def _tell_moved(told: dict[str, Any]) -> None:
    if told["waiting"]:
        slots = ", ".join(map(str, told["waiting"]))
        console.write(f"{told['host']}: still waits for the slots {slots}: their agents finish")
        raise typer.Exit(1)
    console.write(f"{told['host']}: has them")
