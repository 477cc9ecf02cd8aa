"""Webhooks in the asynchronous client: `client.webhooks`."""

from __future__ import annotations

import builtins

from agentray.client.calls import webhooks as calls
from agentray.client.calls.http import check
from agentray.client.calls.webhooks import WebhookPage
from agentray.client.resource import AsyncResource
from agentray.protocol.webhooks import (
    DEFAULT_SECRET,
    NewWebhookSecret,
    Webhook,
    WebhookSecret,
    WebhookState,
)


class AsyncWebhooks(AsyncResource):
    """Looks after webhooks, and the secrets that sign them. Every method raises `ClientError`.

    ```python
    made = await client.webhooks.make_secret()
    run = await client.prompt("Hello", webhook=WebhookSpec(url="https://example.com/hook"))
    ```
    """

    async def list(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        state: WebhookState | None = None,
        run_id: str | None = None,
    ) -> WebhookPage:
        """Return webhooks, newest first.

        Args:
            limit: most of them, 1 to 200.
            before: id of the last one already seen: the `next` of the page before.
            state: only those in this state, such as `dead`.
            run_id: only that of this run.
        """
        request = calls.list_webhooks(limit, before, state, run_id)
        return calls.parse_webhooks(await self._connection.send(request))

    async def get(self, webhook_id: str) -> Webhook:
        """Return a webhook: how often it was tried, and what its receiver said last.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_webhook(await self._connection.send(calls.get(webhook_id)))

    async def resend(self, webhook_id: str) -> Webhook:
        """Send a webhook once more, with the same id, whatever became of it before.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_webhook(await self._connection.send(calls.resend(webhook_id)))

    async def make_secret(self, name: str = DEFAULT_SECRET) -> NewWebhookSecret:
        """Make a secret that signs webhooks; nobody can tell its `secret` later.

        One of the same name is replaced, and signs besides for 24 hours. Sent once: a repeat would
        replace what was made just now.

        Args:
            name: by which prompts refer to it.
        """
        return calls.parse_made(await self._connection.send(calls.make_secret(name)))

    async def list_secrets(self) -> builtins.list[WebhookSecret]:
        """Return the secrets that there are, without what they are."""
        return calls.parse_secrets(await self._connection.send(calls.list_secrets()))

    async def forget_secret(self, name: str) -> None:
        """Forget a secret; what it was to sign is not sent any more.

        Raises:
            NotFound: there is none of this name, or an earlier try has forgotten it.
        """
        check(await self._connection.send(calls.forget_secret(name)))
