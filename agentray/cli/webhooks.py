"""Commands about webhooks: list, show, resend, secrets. They speak HTTP, and need no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import Command, JsonOption, Target, asks_gateway
from agentray.cli.options import BeforeOption, LimitOption
from agentray.cli.showing import show_page
from agentray.protocol.webhooks import DEFAULT_SECRET, Webhook, WebhookState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.client import AsyncAgentClient

group = typer.Typer(
    name="webhooks",
    help="Who is told of the ends of runs: list, show, resend, secrets.",
    no_args_is_help=True,
)
secrets = typer.Typer(
    name="secrets", help="What signs webhooks: list, create, delete.", no_args_is_help=True
)
group.add_typer(secrets)

Id = Annotated[str, typer.Argument(metavar="ID", help="See `webhooks list`.")]
Name = Annotated[str, typer.Argument(metavar="[NAME]", help="By which prompts refer to it.")]


@group.command("list", cls=Command)
@asks_gateway
def list_(
    target: Target,
    *,
    state: Annotated[WebhookState | None, typer.Option(help="Only those in this state.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Only that of a run.")] = None,
    before: BeforeOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List webhooks, newest first."""
    page = target.ask(
        lambda client: client.webhooks.list(limit=limit, before=before, state=state, run_id=run)
    )
    show_page("webhooks", page.webhooks, page.next, _table, as_json=as_json)


def _table(rows: Sequence[Webhook]) -> RenderableType:
    from agentray.cli import render

    return render.webhooks(rows)


@group.command(cls=Command)
@asks_gateway
def show(target: Target, webhook_id: Id) -> None:
    """Show a webhook as JSON: how often it was tried, and what its receiver said last."""
    found = target.ask(lambda client: client.webhooks.get(webhook_id))
    console.write(found.model_dump_json(indent=2))


@group.command(cls=Command)
@asks_gateway
def resend(
    target: Target,
    webhook_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `list`.")],
) -> None:
    """Send webhooks once more, whatever became of them before."""

    async def ask(client: AsyncAgentClient) -> list[Webhook]:
        return [await client.webhooks.resend(webhook_id) for webhook_id in webhook_ids]

    for webhook in target.ask(ask):
        console.write(f"{webhook.id}: {webhook.state.value}")


@secrets.command("list", cls=Command)
@asks_gateway
def list_secrets(target: Target, as_json: JsonOption = False) -> None:
    """List the secrets that sign webhooks, without what they are."""
    found = target.ask(lambda client: client.webhooks.list_secrets())
    if as_json:
        console.write_json([secret.model_dump(mode="json") for secret in found])
        return
    for secret in found:
        console.write(secret.name)


@secrets.command(cls=Command)
@asks_gateway
def create(target: Target, name: Name = DEFAULT_SECRET) -> None:
    """Make a secret and show it, this once. One of the name signs besides for 24 hours."""
    console.write(target.ask(lambda client: client.webhooks.make_secret(name)).secret)


@secrets.command(cls=Command)
@asks_gateway
def delete(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `secrets list`.")],
) -> None:
    """Forget a secret; what it was to sign is not sent any more."""
    target.ask(lambda client: client.webhooks.forget_secret(name))
    console.write(f"The secret {name} is forgotten.")
