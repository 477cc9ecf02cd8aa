"""Commands about sessions. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.options import (
    AgentOption,
    LimitOption,
    OnlyAgentOption,
    read_object,
    read_pairs,
)
from agentray.cli.showing import show, show_page
from agentray.cli.times import read_seconds
from agentray.errors import ConfigurationError
from agentray.protocol.access import AccessLevel

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient, SessionOptions
    from agentray.protocol.sessions import Session, SessionRun

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="May be repeated.")
]
AccessOption = Annotated[
    AccessLevel | None, typer.Option("--access", help="What the agent's tools may touch.")
]
TitleOption = Annotated[str | None, typer.Option(help="For people.")]
TtlOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Forget it after 90s, 15m, 2h or 3d without use."),
]
MetadataOption = Annotated[
    str | None,
    typer.Option(metavar="JSON|@FILE", help="Whatever belongs to it: a JSON object."),
]

group = typer.Typer(
    name="sessions",
    help="Sessions: an agent of its own for each, and its ordered runs.",
    no_args_is_help=True,
)


def _whole(found: Session) -> RenderableType:
    from agentray.cli import session_results as results

    return results.session(found)


def _table(rows: Sequence[Session]) -> RenderableType:
    from agentray.cli import session_results as results

    return results.sessions(rows)


def _options(
    labels: list[str] | None,
    access: AccessLevel | None,
    title: str | None,
    ttl: str | None,
    metadata: str | None,
) -> SessionOptions:
    options: SessionOptions = {}
    if labels is not None:
        options["labels"] = read_pairs("--label", labels)
    if access is not None:
        options["access_level"] = access.value
    if title is not None:
        options["title"] = title
    if ttl is not None:
        options["ttl_s"] = read_seconds("--ttl", ttl)
    if metadata is not None:
        options["metadata"] = read_object("--metadata", metadata)
    return options


@group.command(cls=Command)
@asks_gateway
def create(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    session_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Its id (default: a new one).")
    ] = None,
    *,
    agent: AgentOption = None,
    access: AccessOption = None,
    label: LabelOption = None,
    title: TitleOption = None,
    ttl: TtlOption = None,
    metadata: MetadataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a session; one of the same id that says the same is found."""
    options = _options(label, access, title, ttl, metadata)
    made = target.ask(lambda client: client.sessions.create(session_id, agent=agent, **options))
    show(made, _whole, as_json=as_json)


@group.command("list", cls=Command)
@asks_gateway
def list_(
    target: Target,
    *,
    label: LabelOption = None,
    owner: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Who made them.")] = None,
    agent: OnlyAgentOption = None,
    limit: LimitOption = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those before this one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List sessions, the newest first."""
    labels = read_pairs("--label", label)
    page = target.ask(
        lambda client: client.sessions.list(
            labels=labels, owner=owner, agent=agent, limit=limit, before=before
        )
    )
    show_page("sessions", page.sessions, page.next, _table, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def get(target: Target, session_id: Id, as_json: JsonOption = False) -> None:
    """Show a session."""
    show(target.ask(lambda client: client.sessions.get(session_id)), _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def update(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    session_id: Id,
    *,
    access: AccessOption = None,
    label: LabelOption = None,
    title: TitleOption = None,
    ttl: TtlOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Forget it never: no TTL.")] = False,
    metadata: MetadataOption = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Only if it is in this version (default: any).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a session; what is not named stays. Labels and metadata are replaced as a whole."""
    if keep and ttl is not None:
        raise ConfigurationError("Give --ttl or --keep, not both.")
    options = _options(label, access, title, ttl, metadata)
    if keep:
        options["ttl_s"] = None
    if not options:
        raise ConfigurationError("There is nothing to change: name what it shall say.")
    changed = target.ask(
        lambda client: client.sessions.update(session_id, version=version, **options)
    )
    show(changed, _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def delete(target: Target, session_id: Id, as_json: JsonOption = False) -> None:
    """Delete a session and its agent's state, and cancel what it has under way; its runs stay."""
    target.ask(lambda client: client.sessions.delete(session_id))
    if as_json:
        console.write_json({"id": session_id, "deleted": True})
    else:
        console.write(f"{session_id}: deleted")


@group.command(cls=Command)
@asks_gateway
def copy(  # noqa: PLR0913 - the options are read from the signature
    target: Target,
    session_id: Id,
    copy_id: Annotated[
        str | None, typer.Argument(metavar="[NEW_ID]", help="Of the copy (default: a new one).")
    ] = None,
    *,
    access: AccessOption = None,
    label: LabelOption = None,
    title: TitleOption = None,
    ttl: TtlOption = None,
    metadata: MetadataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a session that goes on where another one stands, with its history and state."""
    options = _options(label, access, title, ttl, metadata)
    made = target.ask(lambda client: client.sessions.copy(session_id, copy_id, **options))
    show(made, _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def history(
    target: Target,
    session_id: Id,
    rolled_back: Annotated[
        bool, typer.Option("--rolled-back", help="Also runs that were rolled back.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the runs of a session in their order: what was asked, and what came of it."""

    async def ask(client: AsyncAgentClient) -> list[SessionRun]:
        found = client.sessions.history(session_id, rolled_back=rolled_back)
        return [each async for each in found]

    runs = target.ask(ask)
    if as_json:
        console.write_json({"runs": [each.model_dump(mode="json") for each in runs]})
        return
    from agentray.cli import session_results as results

    console.out().print(results.history(runs))
