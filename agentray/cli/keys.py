"""Commands about API keys: create, list, get, revoke. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.options import BeforeOption, LimitOption
from agentray.cli.showing import show, show_page
from agentray.errors import ConfigurationError
from agentray.protocol.keys import KeyInfo, Scope

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient

group = typer.Typer(
    name="keys", help="API keys: who may do what. For admins.", no_args_is_help=True
)

_SCOPES = ("invoke", "read", "admin")


@group.command(cls=Command)
@asks_gateway
def create(
    target: Target,
    *,
    scopes: Annotated[
        str,
        typer.Option(
            metavar="SCOPES",
            help="invoke (give work), read (look at it), admin (everything); several with commas.",
        ),
    ],
    name: Annotated[str, typer.Option(help="For people.")] = "",
    tenant: Annotated[
        str | None,
        typer.Option(help="It sees what this tenant has (default: as the key that asks)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, since only its hash is kept."""
    wanted = read_scopes(scopes)
    made = target.ask(lambda client: client.keys.create(wanted, name=name, tenant=tenant))
    if as_json:
        console.write(made.model_dump_json(indent=2))
        return
    console.note(f"The key {made.id}, which nobody can tell again:")
    console.write(made.secret)


def read_scopes(text: str) -> list[Scope]:
    """Read scopes as they are written on the command line.

    Raises:
        ConfigurationError: there is none, or one is unknown.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in given if part not in _SCOPES]
    if unknown or not given:
        told = f"{unknown[0]!r} is no scope" if unknown else "No scope is given"
        raise ConfigurationError(f"{told}: use {', '.join(_SCOPES)}, several with commas.")
    return [cast("Scope", part) for part in dict.fromkeys(given)]


@group.command("list", cls=Command)
@asks_gateway
def list_(
    target: Target,
    limit: LimitOption = 50,
    before: BeforeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List keys, newest first, also revoked ones; never the keys themselves."""
    page = target.ask(lambda client: client.keys.list(limit=limit, before=before))
    show_page("keys", page.keys, page.next, _table, as_json=as_json)


def _table(rows: Sequence[KeyInfo]) -> RenderableType:
    from agentray.cli import views

    return views.keys(rows)


@group.command(cls=Command)
@asks_gateway
def get(
    target: Target,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="See `keys list`.")],
    as_json: JsonOption = False,
) -> None:
    """Show what is known of a key; never the key itself."""
    found = target.ask(lambda client: client.keys.get(key_id))
    show(found, lambda info: _table([info]), as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def revoke(
    target: Target,
    key_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `keys list`.")],
    as_json: JsonOption = False,
) -> None:
    """Revoke keys: they open nothing any more, at the latest in ten seconds."""

    async def ask(client: AsyncAgentClient) -> list[KeyInfo]:
        return [await client.keys.revoke(key_id) for key_id in key_ids]

    revoked = target.ask(ask)
    if as_json:
        console.write_json([found.model_dump(mode="json") for found in revoked])
        return
    for found in revoked:
        console.write(f"{found.id}: revoked")
