"""Commands about dead letters: list, show, retry, purge. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.options import BeforeOption, LimitOption
from agentray.cli.showing import show, show_page
from agentray.errors import ConfigurationError
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient, LetterMatch

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
@asks_gateway
def list_(
    target: Target,
    *,
    kind: Kind = None,
    reason: Reason = None,
    agent: AgentOption = None,
    retried: Retried = None,
    before: BeforeOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first."""
    match: LetterMatch = {"kind": kind, "reason": reason, "agent": agent, "retried": retried}
    page = target.ask(lambda client: client.dead_letters(limit=limit, before=before, **match))
    show_page("dead_letters", page.dead_letters, page.next, _table, as_json=as_json)


def _table(rows: Sequence[DeadLetter]) -> RenderableType:
    from agentray.cli import render

    return render.dead_letters(rows)


def _whole(found: DeadLetter) -> RenderableType:
    from agentray.cli import results

    return results.dead_letter(found)


@group.command("show", cls=Command)
@asks_gateway
def show_one(target: Target, letter_id: Id, as_json: JsonOption = False) -> None:
    """Show a dead letter: what it was, and why it is dead."""
    show(target.ask(lambda client: client.dead_letter(letter_id)), _whole, as_json=as_json)


@group.command(cls=Command)
@asks_gateway
def retry(
    target: Target,
    letter_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `list`.")],
    as_json: JsonOption = False,
) -> None:
    """Try dead letters once more, each as a run: `agentray run RUN_ID` tells what it came to."""

    async def ask(client: AsyncAgentClient) -> list[Run]:
        return [await client.retry_dead_letter(letter_id) for letter_id in letter_ids]

    runs = target.ask(ask)
    if as_json:
        console.write_json([run.model_dump(mode="json") for run in runs])
        return
    for letter_id, run in zip(letter_ids, runs, strict=True):
        console.write(f"{letter_id}: {run.id}, {run.status.value}")


@group.command(cls=Command)
@asks_gateway
def purge(
    target: Target,
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
) -> None:
    """Forget dead letters."""
    match: LetterMatch = {"kind": kind, "reason": reason, "agent": agent, "retried": retried}
    filtered = older_than is not None or any(value is not None for value in match.values())
    if letter_ids and (filtered or everything):
        raise ConfigurationError("Name dead letters, or say which, not both.")
    if not (letter_ids or filtered or everything):
        raise ConfigurationError("Say which: their ids, options as of `list`, or --all.")

    async def ask(client: AsyncAgentClient) -> int:
        if not letter_ids:
            return await client.purge_dead_letters(older_than_s=older_than, **match)
        for letter_id in letter_ids:
            await client.forget_dead_letter(letter_id)
        return len(letter_ids)

    console.write(f"{target.ask(ask)} dead letters are forgotten.")
