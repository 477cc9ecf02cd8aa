"""Commands about pools: list, add, remove, set the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, ask_manager
from agentray.cli.options import read_amounts
from agentray.errors import ConfigurationError

if TYPE_CHECKING:
    from agentray.pool import PoolSettings
    from agentray.runtime.manager_client import ManagerClient

Name = Annotated[str, typer.Argument(metavar="NAME", help="The pool's name, see `pool list`.")]

group = typer.Typer(
    name="pool",
    help="Pools: sets of equal hosts, with what Ray reserves for each of them.",
    no_args_is_help=True,
)


@group.command("list", cls=Command)
def list_(as_json: JsonOption = False) -> None:
    """List the pools, with what those wait for that have too few hosts."""
    from agentray.cli import render

    found = ask_manager(lambda manager: manager.pools())
    if as_json:
        console.write_json(found)
    else:
        console.out().print(render.pools(found))


@group.command(cls=Command)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    hosts: Annotated[
        str, typer.Option(help="How many, as 3, or the least and the most, as 1-4.")
    ] = "1",
    num_cpus: Annotated[float, typer.Option(min=0, help="CPUs reserved per host.")] = 0.0,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs reserved per host.")] = 0.0,
    memory: Annotated[int, typer.Option(min=0, help="Bytes reserved per host.")] = 0,
    resource: Annotated[
        list[str] | None,
        typer.Option(help="Another resource reserved per host, as NAME=AMOUNT; may be repeated."),
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Over as many machines as there are.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give one that is there exactly these settings.")
    ] = False,
) -> None:
    """Add a pool; with --replace also change one: what is not said is as in a new one.

    To change some settings of one that is there, and keep the others: `agentray pool set`.
    """
    from agentray.cli import render

    count = _hosts(hosts)
    resources = read_amounts("--resource", resource)
    placement: Literal["pack", "spread"] = "spread" if spread else "pack"

    async def ask(manager: ManagerClient) -> list[dict[str, Any]]:
        if not replace:
            check_new(name, await manager.pools())
        await manager.add_pool(
            name,
            hosts=count,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            memory=memory,
            resources=resources,
            placement=placement,
        )
        return await _of_name(manager, name)

    console.out().print(render.pools(ask_manager(ask)))


async def _of_name(manager: ManagerClient, name: str) -> list[dict[str, Any]]:
    return [pool for pool in await manager.pools() if pool["name"] == name]


@group.command("set", cls=Command)
def set_(
    name: Name,
    hosts: Annotated[
        str | None, typer.Option(help="How many, as 3, or the least and the most, as 1-4.")
    ] = None,
    num_cpus: Annotated[float | None, typer.Option(min=0, help="CPUs reserved per host.")] = None,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs reserved per host.")] = None,
    memory: Annotated[int | None, typer.Option(min=0, help="Bytes reserved per host.")] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(help="All other resources reserved per host, as NAME=AMOUNT; repeatable."),
    ] = None,
    spread: Annotated[
        bool | None, typer.Option("--spread/--pack", help="Over many machines, or over few.")
    ] = None,
) -> None:
    """Change some settings of a pool; what is not said stays as it is."""
    from agentray.cli import render

    changes: PoolSettings = {}
    if hosts is not None:
        changes["hosts"] = _hosts(hosts)
    if num_cpus is not None:
        changes["num_cpus"] = num_cpus
    if num_gpus is not None:
        changes["num_gpus"] = num_gpus
    if memory is not None:
        changes["memory"] = memory
    if resource is not None:
        changes["resources"] = read_amounts("--resource", resource)
    if spread is not None:
        changes["placement"] = "spread" if spread else "pack"
    if not changes:
        raise ConfigurationError("Say what is to change, as `agentray pool set gpu --hosts 1-4`.")

    async def ask(manager: ManagerClient) -> list[dict[str, Any]]:
        await manager.update_pool(name, **changes)
        return await _of_name(manager, name)

    console.out().print(render.pools(ask_manager(ask)))


@group.command(cls=Command)
def remove(
    name: Name,
    successor: Annotated[
        str | None, typer.Option(help="The pool that takes over its agents.")
    ] = None,
) -> None:
    """Remove a pool: its agents finish what they do, and its hosts stop."""
    ask_manager(lambda manager: manager.remove_pool(name, successor=successor))
    console.write(f"{name}: removed")


@group.command(cls=Command)
def default(name: Name) -> None:
    """Let agents whose type names no pool live in this one."""
    ask_manager(lambda manager: manager.set_default_pool(name))
    console.write(f"{name}: is the default")


def check_new(name: str, pools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to change a pool by mistake.

    Raises:
        ConfigurationError: there is a pool of this name.
    """
    if any(pool["name"] == name for pool in pools):
        raise ConfigurationError(
            f"There is a pool {name!r} already. `agentray pool set {name}` changes what you write; "
            "with --replace it gets the settings of a new pool for the rest."
        )


def _hosts(text: str) -> int | tuple[int, int]:
    least, dash, most = text.partition("-")
    if not (least.isdigit() and (most.isdigit() if dash else not most)):
        raise ConfigurationError(f"--hosts {text}: write a number, as 3, or two, as 1-4.")
    return (int(least), int(most)) if dash else int(least)
