"""Commands about API keys: create, list, revoke. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

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
from agentray.errors import ConfigurationError
from agentray.protocol.keys import KeyInfo, Scope

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, KeyPage
    from agentray.protocol.keys import CreatedKey

group = typer.Typer(
    name="keys", help="API keys: who may do what. For admins.", no_args_is_help=True
)

_SCOPES = ("invoke", "read", "admin")


@group.command(cls=Command)
def create(
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
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a key and print it: this once, since only its hash is kept."""
    wanted = read_scopes(scopes)

    async def ask(client: AsyncAgentClient) -> CreatedKey:
        return await client.keys.create(wanted, name=name, tenant=tenant)

    made = ask_gateway(Target(url, key, timeout), ask)
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
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only older ones than this.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List keys, newest first, also revoked ones; never the keys themselves."""

    async def ask(client: AsyncAgentClient) -> KeyPage:
        return await client.keys.list(limit=limit, before=before)

    page = ask_gateway(Target(url, key, timeout), ask)
    if as_json:
        rows: list[Any] = [found.model_dump(mode="json") for found in page.keys]
        console.write_json({"keys": rows, "next": page.next})
        return
    from agentray.cli import views

    console.out().print(views.keys(page.keys))
    if page.next:
        console.note(f"There are more: --before {page.next}")


@group.command(cls=Command)
def revoke(
    key_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `keys list`.")],
    *,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Revoke keys: they open nothing any more, at the latest in ten seconds."""

    async def ask(client: AsyncAgentClient) -> list[KeyInfo]:
        return [await client.keys.revoke(key_id) for key_id in key_ids]

    revoked = ask_gateway(Target(url, key, timeout), ask)
    if as_json:
        console.write_json([found.model_dump(mode="json") for found in revoked])
        return
    for found in revoked:
        console.write(f"{found.id}: revoked")
