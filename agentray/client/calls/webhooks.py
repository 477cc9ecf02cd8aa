"""Calls about webhooks, and the secrets that sign them."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.webhooks import NewWebhookSecret, Webhook, WebhookSecret, WebhookState

_SECRETS = "webhook-secrets"


class WebhookPage(NamedTuple):
    """Some webhooks, newest first, and what to give as `before` for the next page."""

    webhooks: list[Webhook]
    next: str | None


class _Page(BaseModel):
    webhooks: list[Webhook]
    next: str | None


class _Secrets(BaseModel):
    secrets: list[WebhookSecret]


_webhook = TypeAdapter(Webhook)
_page = TypeAdapter(_Page)
_made = TypeAdapter(NewWebhookSecret)
_secrets = TypeAdapter(_Secrets)


def list_webhooks(
    limit: int, before: str | None, state: WebhookState | None, run_id: str | None
) -> Request:
    """List webhooks."""
    query = query_of(limit=limit, before=before, state=state, run_id=run_id)
    return Request("GET", path_of("webhooks"), query)


def get(webhook_id: str) -> Request:
    """Look at a webhook."""
    return Request("GET", path_of("webhooks", webhook_id))


def resend(webhook_id: str) -> Request:
    """Send a webhook once more."""
    return post(path_of("webhooks", webhook_id, "resend"), {}, harmless=True)


def make_secret(name: str) -> Request:
    """Make a secret. Asking again replaces it by another one."""
    return post(path_of(_SECRETS), {"name": name})


def list_secrets() -> Request:
    """List secrets."""
    return Request("GET", path_of(_SECRETS))


def forget_secret(name: str) -> Request:
    """Forget a secret."""
    return Request("DELETE", path_of(_SECRETS, name))


def parse_webhook(response: Response) -> Webhook:
    """Read a webhook.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _webhook)


def parse_webhooks(response: Response) -> WebhookPage:
    """Read a list of webhooks.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _page)
    return WebhookPage(page.webhooks, page.next)


def parse_made(response: Response) -> NewWebhookSecret:
    """Read a secret that was just made.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _made)


def parse_secrets(response: Response) -> list[WebhookSecret]:
    """Read a list of secrets.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _secrets).secrets
