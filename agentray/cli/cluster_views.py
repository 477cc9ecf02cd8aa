"""Commands that look at the cluster through the gateway: nodes, tasks, actors, serve."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agentray.cli import console
from agentray.cli.command import Command, CommandGroup, JsonOption, Target, asks_gateway, goes_on
from agentray.cli.options import ManyOption, read_pairs
from agentray.cli.showing import show, show_all

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient

T = TypeVar("T")
Asking = Coroutine[Any, Any, T]

serve = typer.Typer(
    name="serve", help="Applications of Ray Serve: list, get, delete.", no_args_is_help=True
)

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="FIELD=VALUE", help="Only those with it; several times."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="See `serve list`.")]

PartId = Annotated[str, typer.Argument(metavar="ID", help="As the list has it.")]


def _parts(
    kind: str,
    about: str,
    find: Callable[[AsyncAgentClient, int, dict[str, str]], Asking[Sequence[BaseModel]]],
    look: Callable[[AsyncAgentClient, str], Asking[BaseModel]],
) -> typer.Typer:
    """Return the commands about one kind of part: by itself the list, and `get`."""
    group = typer.Typer(
        name=f"{kind}s",
        help=f"{about}; `get` shows one.",
        cls=CommandGroup,
        invoke_without_command=True,
    )

    @group.callback()
    @group.command("list", cls=Command, help=f"List them, as `{kind}s` alone does.")
    @asks_gateway
    def list_parts(
        target: Target,
        context: typer.Context,
        filters: Filters = None,
        limit: ManyOption = 100,
        as_json: JsonOption = False,
    ) -> None:
        if goes_on(context):
            return
        wanted = read_pairs("--filter", filters)
        found = target.ask(lambda client: find(client, limit, wanted))
        show_all(found, lambda rows: _table(kind, rows), as_json=as_json)

    @group.command(cls=Command, help=f"Show one {kind}, with all that Ray tells of it.")
    @asks_gateway
    def get(target: Target, part_id: PartId, as_json: JsonOption = False) -> None:
        show(target.ask(lambda client: look(client, part_id)), _whole, as_json=as_json)

    return group


nodes = _parts(
    "node",
    "Machines of the cluster as Ray tells of them, also dead ones that it remembers",
    lambda client, limit, filters: client.list_nodes(limit=limit, filters=filters),
    lambda client, node_id: client.get_node(node_id),
)
tasks = _parts(
    "task",
    "Tasks of Ray's",
    lambda client, limit, filters: client.list_tasks(limit=limit, filters=filters),
    lambda client, task_id: client.get_task(task_id),
)
actors = _parts(
    "actor",
    "Actors of Ray's: hosts, managers and gateways are some of them",
    lambda client, limit, filters: client.list_actors(limit=limit, filters=filters),
    lambda client, actor_id: client.get_actor(actor_id),
)


def _table(kind: str, rows: Sequence[BaseModel]) -> RenderableType:
    from agentray.cli import views

    return views.parts(kind, rows)


def _whole(found: BaseModel) -> RenderableType:
    from agentray.cli import views

    return views.part(found)


@serve.command("list", cls=Command)
@asks_gateway
def list_(target: Target, as_json: JsonOption = False) -> None:
    """List the applications that Ray Serve runs; the gateway is one of them."""
    found = target.ask(lambda client: client.list_serve_applications())
    show_all(found, lambda rows: _table("application", rows), as_json=as_json)


@serve.command(cls=Command)
@asks_gateway
def get(target: Target, name: Name, as_json: JsonOption = False) -> None:
    """Show an application of Ray Serve."""
    show(target.ask(lambda client: client.get_serve_application(name)), _whole, as_json=as_json)


@serve.command(cls=Command)
@asks_gateway
def delete(target: Target, name: Name) -> None:
    """Take an application of Ray Serve down."""
    target.ask(lambda client: client.delete_serve_application(name))
    console.write(f"{name}: deleted")
