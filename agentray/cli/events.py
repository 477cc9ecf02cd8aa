"""Commands about subscriptions made at run time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from agentray.cli import console
from agentray.cli.command import Command, CommandGroup, JsonOption, ask_manager, goes_on

group = typer.Typer(
    name="subscriptions",
    cls=CommandGroup,
    help="Who gets events on which topics, besides what classes say: list, add, remove.",
    invoke_without_command=True,
)


@group.callback()
def list_(
    context: typer.Context,
    agent_type: Annotated[
        str | None, typer.Option("--type", help="Only those of this agent type.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Who gets events on which topics, besides what classes say: list, add, remove."""
    if goes_on(context):
        return
    from agentray.cli import render

    found = ask_manager(lambda manager: manager.subscriptions(agent_type))
    if as_json:
        console.write_json([asdict(s) | {"created_at": s.created_at.isoformat()} for s in found])
    else:
        console.out().print(render.subscriptions(found))


@group.command(cls=Command)
def add(
    agent_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="The agent type, see `status`.")
    ],
    topic: Annotated[
        str,
        typer.Argument(metavar="TOPIC", help="As orders, or with a * what topics begin with."),
    ],
    event: Annotated[
        str | None,
        typer.Option(help="Only events of this class, as shop.Ordered (default: all it handles)."),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            help="Which instance gets an event: topic (its source), correlation, field:NAME, any:N "
            "or key:KEY."
        ),
    ] = "topic",
) -> None:
    """Send events on a topic to agents of a type, until it is removed."""
    made = ask_manager(lambda manager: manager.subscribe(agent_type, topic, event=event, key=key))
    console.write(f"{made.id}: {agent_type} gets events on {topic}")


@group.command(cls=Command)
def remove(
    subscription: Annotated[str, typer.Argument(metavar="ID", help="See `subscriptions`.")],
) -> None:
    """Take a subscription back."""
    ask_manager(lambda manager: manager.unsubscribe(subscription))
    console.write(f"{subscription}: removed")
