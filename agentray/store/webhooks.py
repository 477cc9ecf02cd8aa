"""What the Store keeps of webhooks: whom to tell of the ends of runs, and the secrets that sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from agentray.protocol.runs import Run
from agentray.protocol.webhooks import Webhook, WebhookSecret, WebhookState


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook of a run that was accepted.

    Attributes:
        id: `wh_…`.
        run_id: the run.
        owner: of the run.
        url: where it goes.
        events: which ends are told; None: each.
        secret: name of the secret that signs it.
        created_at: when it was asked for.
    """

    id: str
    run_id: str
    owner: str
    url: str
    events: tuple[str, ...] | None
    secret: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A webhook that somebody is to send now, and nobody else meanwhile.

    Attributes:
        webhook: as it is; its `attempts` has this one.
        owner: of its run.
        run: that it tells of; None: it was forgotten.
    """

    webhook: Webhook
    owner: str
    run: Run | None


@dataclass(frozen=True, slots=True)
class WebhookTry:
    """What a try came to.

    Attributes:
        id: of the webhook.
        attempts: of the try: an older one, which somebody else has repeated, says nothing.
        state: that follows: `pending`, `delivered` or `dead`.
        due_at: when it is tried again; None: it is not.
        status: of the receiver's answer; None: there was none.
        error: why it came to nothing; None: it did not.
        at: when that was known.
    """

    id: str
    attempts: int
    state: WebhookState
    due_at: datetime | None
    status: int | None
    error: str | None
    at: datetime


class WebhookStore(Protocol):
    """Webhooks, and the secrets that sign them. A tenant of None means all, "" nobody's."""

    async def put_webhook(self, webhook: NewWebhook) -> None:
        """Keep a webhook; a run has one: where it is kept already nothing is changed."""
        ...

    async def claim_webhooks(
        self, now: datetime, until: datetime, *, limit: int = 20
    ) -> list[DueWebhook]:
        """Take what is to be sent now, those of runs that have ended meanwhile among them.

        Args:
            now: the time.
            until: when others may take them, if nobody says before what became of them.
            limit: most of them.
        """
        ...

    async def finish_webhook(self, tried: WebhookTry) -> bool:
        """Note what a try came to; False: somebody has tried it again since, or it is gone."""
        ...

    async def get_webhook(self, webhook_id: str, *, tenant: str | None = None) -> Webhook | None:
        """Return a webhook, or None."""
        ...

    async def list_webhooks(
        self,
        *,
        state: WebhookState | None = None,
        run_id: str | None = None,
        tenant: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Webhook]:
        """Return webhooks, newest first; `before` is the id of the last one already seen."""
        ...

    async def resend_webhook(
        self, webhook_id: str, now: datetime, *, tenant: str | None = None
    ) -> Webhook | None:
        """Let a webhook whose run has ended be sent now, with all its tries before it.

        Returns:
            The webhook as it is then; one that waits for its run's end as it was. None: there is
            none.
        """
        ...

    async def prune_webhooks(self, before: datetime, *, limit: int = 1000) -> int:
        """Forget webhooks that were delivered or given up before a time; return how many."""
        ...

    async def put_webhook_secret(
        self, tenant: str, name: str, secret: str, now: datetime
    ) -> WebhookSecret:
        """Keep a secret; one of the same name signs besides from now on, as the previous one."""
        ...

    async def webhook_secrets_of(
        self, tenant: str, name: str, since: datetime
    ) -> Sequence[str] | None:
        """Return the secrets that sign, the newest first; None: there is none of this name.

        Args:
            tenant: whose.
            name: of the secret.
            since: a previous one counts that was replaced after this time.
        """
        ...

    async def list_webhook_secrets(self, tenant: str) -> list[WebhookSecret]:
        """Return a tenant's secrets in the order of their names, without what they are."""
        ...

    async def delete_webhook_secret(self, tenant: str, name: str) -> bool:
        """Forget a secret; False: there is none of this name."""
        ...
