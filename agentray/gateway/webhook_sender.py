"""Sends webhooks: each replica takes those that are due, so that one at a time sends each of them.

What is due is in the Store, and so is how often it was tried: a replica that dies in the midst of
it is followed by another one when its claim runs out. So a receiver may get one twice, with the
same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_jsonable_python

from agentray.core.owners import tenant_of
from agentray.core.webhooks import Network, judge, sign
from agentray.errors import AgentrayError
from agentray.gateway.webhook_transport import AddressRefused, Answer, Transport
from agentray.protocol.webhooks import PREVIOUS_SECRET_H, WebhookState
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store
from agentray.store.webhooks import DueWebhook, WebhookTry

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks for what is due. Ends of runs that this replica drives are known at once."""

MOST_AT_ONCE = 20
CLAIM_S = 90.0
"""How long others leave alone what a replica has taken: longer than a try may take."""
KEPT_DAYS = 30
MAX_RESULT_BYTES = 262_144
"""A longer result is not sent: the receiver gets it from the run."""


_PRUNE_S = 3600.0
_RETRY_S = 5.0
_MAX_ERROR = 500


class WebhookSender:
    """Sends what is due, for as long as it is open."""

    def __init__(self, store: Store, *, allowed: Sequence[Network], attempts: int) -> None:
        """Make one; `start` begins.

        Args:
            store: where webhooks are kept.
            allowed: networks to which they may go although these are not public.
            attempts: after so many one is given up.
        """
        self._store = store
        self._attempts = attempts
        self._transport = Transport(allowed)
        self._tasks = TaskSet("webhooks")
        self._sending = 0
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin to look for what is due."""
        self._tasks.spawn(self._look(), name="webhooks")
        self._tasks.spawn(self._prune(), name="prune webhooks")

    async def close(self) -> None:
        """Stop; what is under way is tried again by others."""
        await self._tasks.close()
        await self._transport.close()

    def wake(self) -> None:
        """Look at once: a run with a webhook has ended, or one is to be sent again."""
        self._wake.set()

    async def _look(self) -> None:
        told = False
        while True:
            self._wake.clear()
            room = MOST_AT_ONCE - self._sending
            try:
                now = datetime.now(UTC)
                until = now + timedelta(seconds=CLAIM_S)
                due = await self._store.claim_webhooks(now, until, limit=room) if room else []
                told = False
            except AgentrayError as error:
                if not told:
                    logger.warning("webhooks wait: %s", error, extra={"action": "webhooks_wait"})
                told = True
                await asyncio.sleep(_RETRY_S)
                continue
            for each in due:
                self._sending += 1
                self._tasks.spawn(self._send(each), name=f"send {each.webhook.id}")
            if not due or room == 0:
                await self._until_woken()

    async def _until_woken(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send(self, due: DueWebhook) -> None:
        try:
            tried = await self._try(due)
            await self._store.finish_webhook(tried)
        except AgentrayError as error:
            # It is tried again when the claim has run out.
            extra = {"action": "webhook_waits", "webhook": due.webhook.id}
            logger.warning("what became of a webhook is not kept: %s", error, extra=extra)
        finally:
            self._sending -= 1
            self._wake.set()  # there is room

    async def _try(self, due: DueWebhook) -> WebhookTry:
        """Send one, and say what it came to."""
        webhook, answer, error, refused = due.webhook, Answer(), "", False
        try:
            answer = await self._post(due)
        except AddressRefused as raised:
            error, refused = str(raised), True
        except _NotSent as raised:
            error, refused = str(raised), raised.for_good
        except (OSError, TimeoutError, ValueError) as raised:
            error = f"{type(raised).__name__}: {raised}".removesuffix(": ")
        if not error and answer.status is not None and not 200 <= answer.status < 300:
            error = f"The receiver answered with {answer.status}."
        verdict = judge(
            answer.status,
            webhook.attempts,
            self._attempts,
            jitter=random.random(),  # noqa: S311 - to spread tries
            retry_after_s=answer.retry_after_s,
            refused=refused,
        )
        now = datetime.now(UTC)
        state, due_at = WebhookState.DELIVERED, None
        if verdict.again_in_s is not None:
            state, due_at = WebhookState.PENDING, now + timedelta(seconds=verdict.again_in_s)
        elif not verdict.delivered:
            state = WebhookState.DEAD
            extra = {"action": "webhook_dead", "webhook": webhook.id, "run": webhook.run_id}
            logger.warning("a webhook is given up: %s", error, extra=extra)
        said = None if verdict.delivered else error[:_MAX_ERROR].replace("\0", "")
        return WebhookTry(webhook.id, webhook.attempts, state, due_at, answer.status, said, now)

    async def _post(self, due: DueWebhook) -> Answer:
        webhook = due.webhook
        if due.run is None:
            raise _NotSent("The run was forgotten.", for_good=True)
        now = datetime.now(UTC)
        since = now - timedelta(hours=PREVIOUS_SECRET_H)
        tenant = tenant_of(due.owner)
        signing = await self._store.webhook_secrets_of(tenant, webhook.secret, since)
        if signing is None:
            raise _NotSent(f"There is no webhook secret {webhook.secret!r} any more.")
        body = _body(due)
        timestamp = int(now.timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": webhook.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(signing, webhook.id, timestamp, body),
        }
        return await self._transport.post(webhook.url, body, headers)

    async def _prune(self) -> None:
        while True:
            try:
                before = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
                while await self._store.prune_webhooks(before):
                    pass
            except AgentrayError as error:
                logger.warning("%s", error, extra={"action": "webhook_pruning_waits"})
            await asyncio.sleep(_PRUNE_S)


class _NotSent(Exception):
    """There is nothing that could be sent."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


def new_random() -> bytes:
    """Return the random part of a new secret."""
    return secrets.token_bytes(24)


def _body(due: DueWebhook) -> bytes:
    run: Any = to_jsonable_python(due.run)
    if len(json.dumps(run["result"])) > MAX_RESULT_BYTES:
        run["result"], run["result_omitted"] = None, True
    told = {"type": due.webhook.event, "timestamp": run["finished_at"], "data": run}
    return json.dumps(told, separators=(",", ":")).encode()
