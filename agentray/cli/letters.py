"""Commands about dead letters: list, show, retry, purge. They speak HTTP, and need no Ray here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

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
from agentray.errors import ConfigurationError
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run

if TYPE_CHECKING:
    from agentray.client import DeadLetterPage, LetterMatch

group = typer.Typer(
    name="dead-letters",
    help="What came to nothing with nobody there to hear of it: list, show, retry, purge.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="See `dead-letters list`.")]
Kind = Annotated[LetterKind | None, typer.Option(help="Only these.")]
Reason = Annotated[LetterReason | None, typer.Option(help="Only for this reason.")]
AgentOption = Annotated[
    str | None,
    typer.Option(help="Only for agents of this type, for TYPE/KEY, or events of this type."),
]
Retried = Annotated[
    bool | None,
    typer.Option("--retried/--not-retried", help="Only those that were tried once more, or not."),
]


@group.command("list", cls=Command)
def list_(  # noqa: PLR0913 - the options are read from the signature
    *,
    kind: Kind = None,
    reason: Reason = None,
    agent: AgentOption = None,
    retried: Retried = None,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only older ones than this.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List dead letters, newest first."""
    match: LetterMatch = {"kind": kind, "reason": reason, "agent": agent, "retried": retried}

    async def ask() -> DeadLetterPage:
        async with Target(url, key, timeout).client() as client:
            return await client.dead_letters(limit=limit, before=before, **match)

    page = asyncio.run(ask())
    if as_json:
        console.write_json([letter.model_dump(mode="json") for letter in page.dead_letters])
        return
    from agentray.cli import render

    console.out().print(render.dead_letters(page.dead_letters))
    if page.next is not None:
        console.note(f"There are more: agentray dead-letters list --before {page.next}")


@group.command(cls=Command)
def show(
    letter_id: Id,
    *,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a dead letter: what it was, and why it is dead."""

    async def ask() -> DeadLetter:
        async with Target(url, key, timeout).client() as client:
            return await client.dead_letter(letter_id)

    letter = asyncio.run(ask())
    if as_json:
        console.write(letter.model_dump_json(indent=2))
        return
    from agentray.cli import results

    console.out().print(results.dead_letter(letter))


@group.command(cls=Command)
def retry(
    letter_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `list`.")],
    *,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Try dead letters once more, each as a run: `agentray run RUN_ID` tells what it came to."""

    async def ask() -> list[Run]:
        async with Target(url, key, timeout).client() as client:
            return [await client.retry_dead_letter(letter_id) for letter_id in letter_ids]

    runs = asyncio.run(ask())
    if as_json:
        console.write_json([run.model_dump(mode="json") for run in runs])
        return
    for letter_id, run in zip(letter_ids, runs, strict=True):
        console.write(f"{letter_id}: {run.id}, {run.status.value}")


@group.command(cls=Command)
def purge(  # noqa: PLR0913 - the options are read from the signature
    letter_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Only these.")
    ] = None,
    *,
    kind: Kind = None,
    reason: Reason = None,
    agent: AgentOption = None,
    retried: Retried = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Only older ones.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of them: needed where nothing else is said.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Forget dead letters."""
    match: LetterMatch = {"kind": kind, "reason": reason, "agent": agent, "retried": retried}
    filtered = older_than is not None or any(value is not None for value in match.values())
    if letter_ids and (filtered or everything):
        raise ConfigurationError("Name dead letters, or say which, not both.")
    if not (letter_ids or filtered or everything):
        raise ConfigurationError("Say which: their ids, options as of `list`, or --all.")

    async def ask() -> int:
        async with Target(url, key, timeout).client() as client:
            if not letter_ids:
                return await client.purge_dead_letters(older_than_s=older_than, **match)
            for letter_id in letter_ids:
                await client.forget_dead_letter(letter_id)
            return len(letter_ids)

    console.write(f"{asyncio.run(ask())} dead letters are forgotten.")
