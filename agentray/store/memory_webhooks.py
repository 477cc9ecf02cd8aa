"""Webhooks in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from agentray.core.owners import tenant_of
from agentray.protocol.webhooks import Webhook, WebhookEvent, WebhookSecret, WebhookState
from agentray.store.webhooks import DueWebhook, NewWebhook, WebhookTry

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


@dataclass(frozen=True, slots=True)
class _Secret:
    about: WebhookSecret
    secret: str
    previous: str | None = None


class MemoryWebhooks:
    """A `WebhookStore`; a part of `MemoryStore`."""

    _runs: dict[str, RunRow]

    def __init__(self) -> None:
        super().__init__()
        self._webhooks: dict[str, tuple[Webhook, str]] = {}  # with their owners
        self._webhook_secrets: dict[tuple[str, str], _Secret] = {}

    async def put_webhook(self, webhook: NewWebhook) -> None:
        """Keep a webhook; where its run has one nothing is changed."""
        if any(known.run_id == webhook.run_id for known, _ in self._webhooks.values()):
            return
        made = Webhook(
            id=webhook.id,
            run_id=webhook.run_id,
            url=webhook.url,
            events=None if webhook.events is None else [WebhookEvent(e) for e in webhook.events],
            secret=webhook.secret,
            state=WebhookState.WAITING,
            created_at=webhook.created_at,
        )
        self._webhooks.setdefault(webhook.id, (made, webhook.owner))

    async def claim_webhooks(
        self, now: datetime, until: datetime, *, limit: int = 20
    ) -> list[DueWebhook]:
        """Take what is to be sent now, those of runs that have ended meanwhile among them."""
        self._ripen(now, limit)
        due = sorted(
            (webhook.due_at, webhook.id)
            for webhook, _ in self._webhooks.values()
            if webhook.state is WebhookState.PENDING and webhook.due_at and webhook.due_at <= now
        )
        claimed: list[DueWebhook] = []
        for webhook_id in sorted(webhook_id for _, webhook_id in due[:limit]):
            webhook, owner = self._webhooks[webhook_id]
            webhook = webhook.model_copy(update={"attempts": webhook.attempts + 1, "due_at": until})
            self._webhooks[webhook_id] = (webhook, owner)
            row = self._runs.get(webhook.run_id)
            claimed.append(DueWebhook(webhook, owner, None if row is None else row.run))
        return claimed

    def _ripen(self, now: datetime, limit: int) -> None:
        """Let the webhooks of runs that have ended be sent."""
        rows = [
            (webhook, owner, self._runs.get(webhook.run_id))
            for webhook, owner in self._webhooks.values()
            if webhook.state is WebhookState.WAITING
        ]
        ended = [found for found in rows if found[2] is None or found[2].end is not None]
        for webhook, owner, row in sorted(ended, key=lambda found: found[0].id)[:limit]:
            event = None if row is None else WebhookEvent.of(row.status)
            if event is None or event not in (webhook.events or (event,)):
                del self._webhooks[webhook.id]
                continue
            update = {"state": WebhookState.PENDING, "event": event, "due_at": now}
            self._webhooks[webhook.id] = (webhook.model_copy(update=update), owner)

    async def finish_webhook(self, tried: WebhookTry) -> bool:
        """Note what a try came to; False: it was tried again since, or is gone."""
        found = self._webhooks.get(tried.id)
        if found is None:
            return False
        webhook, owner = found
        if webhook.attempts != tried.attempts or webhook.state is not WebhookState.PENDING:
            return False
        update = {
            "state": tried.state,
            "due_at": tried.due_at,
            "last_status": tried.status,
            "last_error": tried.error,
            "finished_at": None if tried.state is WebhookState.PENDING else tried.at,
        }
        self._webhooks[tried.id] = (webhook.model_copy(update=update), owner)
        return True

    async def get_webhook(self, webhook_id: str, *, tenant: str | None = None) -> Webhook | None:
        """Return a webhook, or None."""
        found = self._webhooks.get(webhook_id)
        if found is None or tenant not in {None, tenant_of(found[1])}:
            return None
        return found[0]

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
        found = [
            webhook
            for webhook_id, (webhook, owner) in sorted(self._webhooks.items(), reverse=True)
            if (before is None or webhook_id < before)
            and state in {None, webhook.state}
            and run_id in {None, webhook.run_id}
            and tenant in {None, tenant_of(owner)}
        ]
        return found[:limit]

    async def resend_webhook(
        self, webhook_id: str, now: datetime, *, tenant: str | None = None
    ) -> Webhook | None:
        """Let a webhook whose run has ended be sent now."""
        webhook = await self.get_webhook(webhook_id, tenant=tenant)
        if webhook is None or webhook.state is WebhookState.WAITING:
            return webhook
        update = {"state": WebhookState.PENDING, "due_at": now, "finished_at": None}
        webhook = webhook.model_copy(update=update)
        self._webhooks[webhook_id] = (webhook, self._webhooks[webhook_id][1])
        return webhook

    async def prune_webhooks(self, before: datetime, *, limit: int = 1000) -> int:
        """Forget webhooks that were delivered or given up before a time; return how many."""
        old = sorted(
            (webhook.finished_at, webhook.id)
            for webhook, _ in self._webhooks.values()
            if webhook.finished_at is not None and webhook.finished_at < before
        )
        for _, webhook_id in old[:limit]:
            del self._webhooks[webhook_id]
        return len(old[:limit])

    async def put_webhook_secret(
        self, tenant: str, name: str, secret: str, now: datetime
    ) -> WebhookSecret:
        """Keep a secret; one of the same name is the previous one from now on."""
        known = self._webhook_secrets.get((tenant, name))
        if known is None:
            kept = _Secret(WebhookSecret(name=name, created_at=now), secret)
        else:
            about = known.about.model_copy(update={"rotated_at": now})
            kept = replace(known, about=about, secret=secret, previous=known.secret)
        self._webhook_secrets[tenant, name] = kept
        return kept.about

    async def webhook_secrets_of(
        self, tenant: str, name: str, since: datetime
    ) -> Sequence[str] | None:
        """Return the secrets that sign, the newest first; None: there is none of this name."""
        found = self._webhook_secrets.get((tenant, name))
        if found is None:
            return None
        rotated_at = found.about.rotated_at
        if found.previous is None or rotated_at is None or rotated_at <= since:
            return [found.secret]
        return [found.secret, found.previous]

    async def list_webhook_secrets(self, tenant: str) -> list[WebhookSecret]:
        """Return a tenant's secrets in the order of their names."""
        found = sorted(self._webhook_secrets.items(), key=lambda each: each[0])
        return [kept.about for (of, _), kept in found if of == tenant]

    async def delete_webhook_secret(self, tenant: str, name: str) -> bool:
        """Forget a secret; False: there is none of this name."""
        return self._webhook_secrets.pop((tenant, name), None) is not None
