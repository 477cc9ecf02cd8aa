"""Commands that look at the cluster through the gateway: nodes, tasks, actors, serve."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentray.cli import console
from agentray.cli.command import (
    DEFAULT_TIMEOUT_S,
    Command,
    JsonOption,
    KeyOption,
    Target,
    TimeoutOption,
    UrlOption,
    ask_gateway,
)
from agentray.cli.jobs import read_pairs

if TYPE_CHECKING:
    from pydantic import BaseModel

    from agentray.client import AsyncAgentClient

serve = typer.Typer(
    name="serve", help="Applications of Ray Serve: list, get, delete.", no_args_is_help=True
)

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="FIELD=VALUE", help="Only those with it; several times."),
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Most of them.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="See `serve list`.")]


def _show_many(
    target: Target,
    ask: Callable[[AsyncAgentClient], Coroutine[Any, Any, Sequence[BaseModel]]],
    kind: str,
    *,
    as_json: bool,
) -> None:
    found = ask_gateway(target, ask)
    if as_json:
        console.write_json([part.model_dump(mode="json") for part in found])
        return
    from agentray.cli import views

    console.out().print(views.parts(kind, found))


def nodes(
    filters: Filters = None,
    limit: Limit = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List the machines of the cluster as Ray tells of them, also dead ones that it remembers."""
    wanted = read_pairs("--filter", filters)
    _show_many(
        Target(url, key, timeout),
        lambda client: client.list_nodes(limit=limit, filters=wanted),
        "node",
        as_json=as_json,
    )


def tasks(
    filters: Filters = None,
    limit: Limit = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List tasks of Ray's."""
    wanted = read_pairs("--filter", filters)
    _show_many(
        Target(url, key, timeout),
        lambda client: client.list_tasks(limit=limit, filters=wanted),
        "task",
        as_json=as_json,
    )


def actors(
    filters: Filters = None,
    limit: Limit = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List actors of Ray's: hosts, managers and gateways are some of them."""
    wanted = read_pairs("--filter", filters)
    _show_many(
        Target(url, key, timeout),
        lambda client: client.list_actors(limit=limit, filters=wanted),
        "actor",
        as_json=as_json,
    )


@serve.command("list", cls=Command)
def list_(
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List the applications that Ray Serve runs; the gateway is one of them."""
    _show_many(
        Target(url, key, timeout),
        lambda client: client.list_serve_applications(),
        "application",
        as_json=as_json,
    )


@serve.command(cls=Command)
def get(
    name: Name,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show an application of Ray Serve."""
    found = ask_gateway(
        Target(url, key, timeout), lambda client: client.get_serve_application(name)
    )
    if as_json:
        console.write(found.model_dump_json(indent=2))
        return
    from agentray.cli import results

    console.out().print(results.result(found.model_dump(mode="json")))


@serve.command(cls=Command)
def delete(
    name: Name,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Take an application of Ray Serve down."""
    ask_gateway(Target(url, key, timeout), lambda client: client.delete_serve_application(name))
    console.write(f"{name}: deleted")
