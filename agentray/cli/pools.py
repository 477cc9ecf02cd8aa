"""Commands about pools: list, add, remove, set the default."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, read_settings
from agentray.errors import ConfigurationError

if TYPE_CHECKING:
    from agentray.pool import PoolSettings

Name = Annotated[str, typer.Argument(metavar="NAME", help="The pool's name, see `pool list`.")]

group = typer.Typer(
    name="pool",
    help="Pools: sets of equal hosts, with what Ray reserves for each of them.",
    no_args_is_help=True,
)


@group.command("list", cls=Command)
def list_(as_json: JsonOption = False) -> None:
    """List the pools, with what those wait for that have too few hosts."""
    settings = read_settings()
    from agentray.cli import render
    from agentray.runtime.connection import connect

    async def ask() -> list[dict[str, Any]]:
        async with connect(settings=settings) as manager:
            return await manager.pools()

    found = asyncio.run(ask())
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
    settings = read_settings()
    from agentray.cli import render
    from agentray.runtime.connection import connect

    count = _hosts(hosts)
    resources = dict(_resource(text) for text in resource or ())
    placement: Literal["pack", "spread"] = "spread" if spread else "pack"

    async def ask() -> list[dict[str, Any]]:
        async with connect(settings=settings) as manager:
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
            return [pool for pool in await manager.pools() if pool["name"] == name]

    console.out().print(render.pools(asyncio.run(ask())))


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
    settings = read_settings()
    from agentray.cli import render
    from agentray.runtime.connection import connect

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
        changes["resources"] = dict(_resource(text) for text in resource)
    if spread is not None:
        changes["placement"] = "spread" if spread else "pack"
    if not changes:
        raise ConfigurationError("Say what is to change, as `agentray pool set gpu --hosts 1-4`.")

    async def ask() -> list[dict[str, Any]]:
        async with connect(settings=settings) as manager:
            await manager.update_pool(name, **changes)
            return [pool for pool in await manager.pools() if pool["name"] == name]

    console.out().print(render.pools(asyncio.run(ask())))


@group.command(cls=Command)
def remove(
    name: Name,
    successor: Annotated[
        str | None, typer.Option(help="The pool that takes over its agents.")
    ] = None,
) -> None:
    """Remove a pool: its agents finish what they do, and its hosts stop."""
    settings = read_settings()
    from agentray.runtime.connection import connect

    async def ask() -> None:
        async with connect(settings=settings) as manager:
            await manager.remove_pool(name, successor=successor)

    asyncio.run(ask())
    console.write(f"{name}: removed")


@group.command(cls=Command)
def default(name: Name) -> None:
    """Let agents whose type names no pool live in this one."""
    settings = read_settings()
    from agentray.runtime.connection import connect

    async def ask() -> None:
        async with connect(settings=settings) as manager:
            await manager.set_default_pool(name)

    asyncio.run(ask())
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


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError:
        raise ConfigurationError(f"--resource {text}: write NAME=AMOUNT, as licence=1.") from None
