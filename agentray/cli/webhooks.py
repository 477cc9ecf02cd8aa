"""Commands about webhooks: list, show, resend, secrets. They speak HTTP, and need no Ray here."""

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
from agentray.protocol.webhooks import (
    DEFAULT_SECRET,
    NewWebhookSecret,
    Webhook,
    WebhookSecret,
    WebhookState,
)

if TYPE_CHECKING:
    from agentray.client.calls.webhooks import WebhookPage

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
def list_(
    *,
    state: Annotated[WebhookState | None, typer.Option(help="Only those in this state.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Only that of a run.")] = None,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only older ones than this.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most of them.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List webhooks, newest first."""

    async def ask() -> WebhookPage:
        async with Target(url, key, timeout).client() as client:
            return await client.webhooks.list(limit=limit, before=before, state=state, run_id=run)

    page = asyncio.run(ask())
    if as_json:
        console.write_json([webhook.model_dump(mode="json") for webhook in page.webhooks])
        return
    from agentray.cli import render

    console.out().print(render.webhooks(page.webhooks))
    if page.next is not None:
        console.note(f"There are more: agentray webhooks list --before {page.next}")


@group.command(cls=Command)
def show(
    webhook_id: Id,
    *,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show a webhook as JSON: how often it was tried, and what its receiver said last."""

    async def ask() -> Webhook:
        async with Target(url, key, timeout).client() as client:
            return await client.webhooks.get(webhook_id)

    console.write(asyncio.run(ask()).model_dump_json(indent=2))


@group.command(cls=Command)
def resend(
    webhook_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="See `list`.")],
    *,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Send webhooks once more, whatever became of them before."""

    async def ask() -> list[Webhook]:
        async with Target(url, key, timeout).client() as client:
            return [await client.webhooks.resend(webhook_id) for webhook_id in webhook_ids]

    for webhook in asyncio.run(ask()):
        console.write(f"{webhook.id}: {webhook.state.value}")


@secrets.command("list", cls=Command)
def list_secrets(
    *,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """List the secrets that sign webhooks, without what they are."""

    async def ask() -> list[WebhookSecret]:
        async with Target(url, key, timeout).client() as client:
            return await client.webhooks.list_secrets()

    found = asyncio.run(ask())
    if as_json:
        console.write_json([secret.model_dump(mode="json") for secret in found])
        return
    for secret in found:
        console.write(secret.name)


@secrets.command(cls=Command)
def create(
    name: Name = DEFAULT_SECRET,
    *,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a secret and show it, this once. One of the name signs besides for 24 hours."""

    async def ask() -> NewWebhookSecret:
        async with Target(url, key, timeout).client() as client:
            return await client.webhooks.make_secret(name)

    console.write(asyncio.run(ask()).secret)


@secrets.command(cls=Command)
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `secrets list`.")],
    *,
    url: UrlOption = None,
    key: KeyOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Forget a secret; what it was to sign is not sent any more."""

    async def ask() -> None:
        async with Target(url, key, timeout).client() as client:
            await client.webhooks.forget_secret(name)

    asyncio.run(ask())
    console.write(f"The secret {name} is forgotten.")
