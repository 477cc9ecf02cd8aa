"""Commands about sessions. They speak HTTP, and need no Ray here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

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
)
from agentray.cli.times import read_seconds
from agentray.errors import ConfigurationError
from agentray.protocol.access import AccessLevel

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient, SessionOptions, SessionPage
    from agentray.protocol.sessions import Session, SessionRun

T = TypeVar("T")

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
    str | None, typer.Option(metavar="JSON", help="Whatever belongs to it: a JSON object.")
]

group = typer.Typer(
    name="sessions",
    help="Sessions: an agent of its own for each, and its ordered runs.",
    no_args_is_help=True,
)


def _ask(target: Target, ask: Callable[[AsyncAgentClient], Coroutine[Any, Any, T]]) -> T:
    async def asking() -> T:
        async with target.client() as client:
            return await ask(client)

    return asyncio.run(asking())


def _show(found: Session, *, as_json: bool) -> None:
    if as_json:
        console.write(found.model_dump_json(indent=2))
        return
    from agentray.cli import session_results as results

    console.out().print(results.session(found))


def _labels(given: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for label in given or ():
        name, equals, value = label.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--label {label!r}: write NAME=VALUE.")
        labels[name] = value
    return labels


def _options(
    labels: list[str] | None,
    access: AccessLevel | None,
    title: str | None,
    ttl: str | None,
    metadata: str | None,
) -> SessionOptions:
    options: SessionOptions = {}
    if labels is not None:
        options["labels"] = _labels(labels)
    if access is not None:
        options["access_level"] = access.value
    if title is not None:
        options["title"] = title
    if ttl is not None:
        options["ttl_s"] = read_seconds("--ttl", ttl)
    if metadata is not None:
        options["metadata"] = _object(metadata)
    return options


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"--metadata is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConfigurationError("--metadata must be a JSON object.")
    return cast("dict[str, Any]", value)


@group.command(cls=Command)
def create(  # noqa: PLR0913 - the options are read from the signature
    session_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Its id (default: a new one).")
    ] = None,
    *,
    agent: Annotated[
        str | None,
        typer.Option(help="An agent type, or TYPE/KEY (default: the entry of the app)."),
    ] = None,
    access: AccessOption = None,
    label: LabelOption = None,
    title: TitleOption = None,
    ttl: TtlOption = None,
    metadata: MetadataOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a session; one of the same id that says the same is found."""
    options = _options(label, access, title, ttl, metadata)

    async def ask(client: AsyncAgentClient) -> Session:
        return await client.sessions.create(session_id, agent=agent, **options)

    _show(_ask(Target(url, key, timeout), ask), as_json=as_json)


@group.command("list", cls=Command)
def list_(  # noqa: PLR0913 - the options are read from the signature
    *,
    label: LabelOption = None,
    owner: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Who made them.")] = None,
    agent: Annotated[
        str | None, typer.Option(help="Only those of this agent type, or TYPE/KEY.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those before this one.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List sessions, the newest first."""
    labels = _labels(label)

    async def ask(client: AsyncAgentClient) -> SessionPage:
        return await client.sessions.list(
            labels=labels, owner=owner, agent=agent, limit=limit, before=before
        )

    page = _ask(Target(url, key, timeout), ask)
    if as_json:
        rows = [found.model_dump(mode="json") for found in page.sessions]
        console.write_json({"sessions": rows, "next": page.next})
        return
    from agentray.cli import session_results as results

    console.out().print(results.sessions(page.sessions))
    if page.next:
        console.note(f"There are more: --before {page.next}")


@group.command(cls=Command)
def get(
    session_id: Id,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a session."""

    async def ask(client: AsyncAgentClient) -> Session:
        return await client.sessions.get(session_id)

    _show(_ask(Target(url, key, timeout), ask), as_json=as_json)


@group.command(cls=Command)
def update(  # noqa: PLR0913 - the options are read from the signature
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
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Change a session; what is not named stays. Labels and metadata are replaced as a whole."""
    if keep and ttl is not None:
        raise ConfigurationError("Give --ttl or --keep, not both.")
    options = _options(label, access, title, ttl, metadata)
    if keep:
        options["ttl_s"] = None
    if not options:
        raise ConfigurationError("There is nothing to change: name what it shall say.")

    async def ask(client: AsyncAgentClient) -> Session:
        return await client.sessions.update(session_id, version=version, **options)

    _show(_ask(Target(url, key, timeout), ask), as_json=as_json)


@group.command(cls=Command)
def delete(
    session_id: Id,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Delete a session and its agent's state, and cancel what it has under way; its runs stay."""

    async def ask(client: AsyncAgentClient) -> None:
        await client.sessions.delete(session_id)

    _ask(Target(url, key, timeout), ask)
    if as_json:
        console.write_json({"id": session_id, "deleted": True})
    else:
        console.write(f"{session_id}: deleted")


@group.command(cls=Command)
def copy(  # noqa: PLR0913 - the options are read from the signature
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
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a session that goes on where another one stands, with its history and state."""
    options = _options(label, access, title, ttl, metadata)

    async def ask(client: AsyncAgentClient) -> Session:
        return await client.sessions.copy(session_id, copy_id, **options)

    _show(_ask(Target(url, key, timeout), ask), as_json=as_json)


@group.command(cls=Command)
def history(
    session_id: Id,
    rolled_back: Annotated[
        bool, typer.Option("--rolled-back", help="Also runs that were rolled back.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show the runs of a session in their order: what was asked, and what came of it."""

    async def ask(client: AsyncAgentClient) -> list[SessionRun]:
        found = client.sessions.history(session_id, rolled_back=rolled_back)
        return [each async for each in found]

    runs = _ask(Target(url, key, timeout), ask)
    if as_json:
        console.write_json({"runs": [each.model_dump(mode="json") for each in runs]})
        return
    from agentray.cli import session_results as results

    console.out().print(results.history(runs))
