"""Webhooks in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from agentray.protocol.webhooks import Webhook, WebhookSecret, WebhookState
from agentray.store import rows
from agentray.store.database import Database, Row
from agentray.store.webhooks import DueWebhook, NewWebhook, WebhookTry


class PostgresWebhooks:
    """A `WebhookStore`; a part of `PostgresStore`."""

    _database: Database

    async def put_webhook(self, webhook: NewWebhook) -> None:
        """Keep a webhook; where its run has one nothing is changed."""
        new = webhook
        events = None if new.events is None else list(new.events)
        about = (new.url, events, new.secret, new.created_at)
        await self._database.execute("put_webhook", new.id, new.run_id, new.owner, *about)

    async def claim_webhooks(
        self, now: datetime, until: datetime, *, limit: int = 20
    ) -> list[DueWebhook]:
        """Take what is to be sent now, those of runs that have ended meanwhile among them."""
        await self._database.execute("ripen_webhooks", now, limit)
        found = await self._database.fetch("claim_webhooks", now, until, limit)
        return [_due_of(row) for row in found]

    async def finish_webhook(self, tried: WebhookTry) -> bool:
        """Note what a try came to; False: it was tried again since, or is gone."""
        about = (tried.state.value, tried.due_at, tried.status, tried.error, tried.at)
        return await self._database.fetch_value("finish_webhook", tried.id, tried.attempts, *about)

    async def get_webhook(self, webhook_id: str, *, tenant: str | None = None) -> Webhook | None:
        """Return a webhook, or None."""
        row = await self._database.fetch_row("get_webhook", webhook_id, tenant)
        return None if row is None else Webhook.model_validate(dict(row))

    async def list_webhooks(
        self,
        *,
        state: WebhookState | None = None,
        run_id: str | None = None,
        tenant: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Webhook]:
        """Return webhooks, newest first."""
        found = await self._database.fetch("list_webhooks", state, run_id, tenant, before, limit)
        return [Webhook.model_validate(dict(row)) for row in found]

    async def resend_webhook(
        self, webhook_id: str, now: datetime, *, tenant: str | None = None
    ) -> Webhook | None:
        """Let a webhook whose run has ended be sent now."""
        await self._database.execute("resend_webhook", webhook_id, now, tenant)
        return await self.get_webhook(webhook_id, tenant=tenant)

    async def prune_webhooks(self, before: datetime, *, limit: int = 1000) -> int:
        """Forget webhooks that were delivered or given up before a time; return how many."""
        return await self._database.fetch_value("prune_webhooks", before, limit)

    async def put_webhook_secret(
        self, tenant: str, name: str, secret: str, now: datetime
    ) -> WebhookSecret:
        """Keep a secret; one of the same name is the previous one from now on."""
        found = await self._database.fetch("put_webhook_secret", tenant, name, secret, now)
        return WebhookSecret.model_validate(dict(found[0]))

    async def webhook_secrets_of(
        self, tenant: str, name: str, since: datetime
    ) -> Sequence[str] | None:
        """Return the secrets that sign, the newest first; None: there is none of this name."""
        row = await self._database.fetch_row("webhook_secrets_of", tenant, name, since)
        return None if row is None else [each for each in row.values() if each is not None]

    async def list_webhook_secrets(self, tenant: str) -> list[WebhookSecret]:
        """Return a tenant's secrets in the order of their names."""
        found = await self._database.fetch("list_webhook_secrets", tenant)
        return [WebhookSecret.model_validate(dict(row)) for row in found]

    async def delete_webhook_secret(self, tenant: str, name: str) -> bool:
        """Forget a secret; False: there is none of this name."""
        return await self._database.fetch_value("delete_webhook_secret", tenant, name)


def _due_of(row: Row) -> DueWebhook:
    names = ("run_id", "url", "secret", "state", "event", "attempts", "due_at")
    more = {name: row[name] for name in (*names, "last_status", "last_error")}
    webhook = Webhook(
        id=row["webhook_id"],
        events=row["webhook_events"],
        created_at=row["asked_at"],
        finished_at=row["done_at"],
        **more,
    )
    run = None if row["id"] is None else rows.run_of(row)
    return DueWebhook(webhook, row["webhook_owner"], run)
