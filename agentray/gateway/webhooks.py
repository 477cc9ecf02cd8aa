"""`/v1/webhooks`, `/v1/webhook-secrets`: who is told of the ends of runs, and what signs that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentray.core.webhooks import new_secret
from agentray.errors import UnknownWebhook
from agentray.gateway.auth import ADMIN, READ, Caller, KeyRing, caller
from agentray.gateway.bodies import openapi_body, read_body
from agentray.gateway.problems import from_validation, invalid
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.gateway.webhook_sender import WebhookSender, new_random
from agentray.gateway.webhook_transport import AddressRefused, Gate
from agentray.ids import new_id
from agentray.protocol.runs import Run
from agentray.protocol.webhooks import (
    DEFAULT_SECRET,
    NAME_FORM,
    PREVIOUS_SECRET_H,
    NewWebhookSecret,
    Webhook,
    WebhookSecret,
    WebhookSpec,
    WebhookState,
)
from agentray.store.webhooks import NewWebhook

_ID = {
    "id": "wh_019a8c0d4e5f0123456789abcdef",
    "run_id": "run_019a8c0d4e5f0123456789abcdef",
    "url": "https://example.com/hooks/agentray",
    "events": None,
    "secret": DEFAULT_SECRET,
    "state": "pending",
    "event": "run.succeeded",
    "attempts": 2,
    "due_at": "2026-01-15T10:00:25Z",
    "last_status": 503,
    "last_error": "The receiver answered with 503.",
    "created_at": "2026-01-15T10:00:00Z",
    "finished_at": None,
}


class WebhookPage(BaseModel):
    """Some webhooks, newest first."""

    webhooks: list[Webhook]
    next: str | None = Field(description="Give it as `before` for the next page; null: the last.")


class WebhookFilter(BaseModel):
    """Which webhooks to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most webhooks to return.")
    before: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^wh_\w+$",
        description="Id of the last webhook already seen.",
    )
    state: WebhookState | None = Field(default=None, description="Only those in this state.")
    run_id: str | None = Field(
        default=None, max_length=64, pattern=r"^run_\w+$", description="Only that of this run."
    )


class SecretBody(BaseModel):
    """The body of `POST /v1/webhook-secrets`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"name": DEFAULT_SECRET}]}
    )

    name: str = Field(
        default=DEFAULT_SECRET,
        pattern=NAME_FORM,
        description="By which prompts refer to it; one of this name is replaced, and signs besides "
        f"for {PREVIOUS_SECRET_H} hours.",
    )


class SecretList(BaseModel):
    """The secrets that there are, without what they are."""

    secrets: list[WebhookSecret]


class PromptWebhooks:
    """The webhooks of prompts, as these ask for them."""

    def __init__(self, services: Services, sender: WebhookSender) -> None:
        self._store = services.store
        self._gate = Gate(services.settings.webhook_networks or ())
        self._sender = sender

    async def check(self, spec: WebhookSpec, asks: Caller) -> None:
        """Refuse a webhook that could not be sent, before its run is accepted.

        Raises:
            HttpProblem: 422, its URL is refused, or there is no such secret.
        """
        try:
            self._gate.check_url(spec.url)
        except AddressRefused as error:
            raise invalid("webhook.url", "body", str(error)) from error
        if await self._store.webhook_secrets_of(asks.tenant, spec.secret, _since()) is None:
            detail = f"there is no secret {spec.secret!r}: make it with POST /v1/webhook-secrets"
            raise invalid("webhook.secret", "body", detail)

    async def keep(self, spec: WebhookSpec, run: Run, asks: Caller) -> None:
        """Keep the webhook of an accepted run; a repeated prompt keeps none anew.

        Raises:
            StoreUnavailable: it is not kept.
        """
        events = None if spec.events is None else tuple(event.value for event in spec.events)
        new = NewWebhook(
            new_id("wh"), run.id, asks.owner, spec.url, events, spec.secret, datetime.now(UTC)
        )
        await self._store.put_webhook(new)
        self._sender.wake()  # it may have ended by now

    def run_ended(self, _: object) -> None:
        """A run with a webhook has ended here: it need not be looked for."""
        self._sender.wake()


class Webhooks:
    """The webhooks resource."""

    def __init__(self, services: Services, keys: KeyRing, sender: WebhookSender) -> None:
        self._store = services.store
        self._max_body_bytes = services.settings.max_body_bytes
        self._sender = sender
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("", "webhooks", keys)).add

        def one(status: int, said: str) -> dict[int | str, dict[str, Any]]:
            example = {"application/json": {"example": _ID}}
            return {status: {"model": Webhook, "description": said, "content": example}}

        page: dict[int | str, dict[str, Any]] = {200: {"model": WebhookPage}}
        hooks, kept = "/v1/webhooks", "/v1/webhook-secrets"
        add(["GET"], hooks, self.list_webhooks, "listWebhooks", READ, page, 429)
        found = one(200, "The webhook as it is now.")
        add(["GET"], hooks + "/{webhook_id}", self.get_webhook, "getWebhook", READ, found, 404, 429)
        again = one(202, "It is sent, or will be when its run has ended.")
        path = hooks + "/{webhook_id}/resend"
        add(
            ["POST"], path, self.resend, "resendWebhook", ADMIN, again, 404, 429, status_code=202
        )  # fmt: skip
        made: dict[int | str, dict[str, Any]]
        made = {201: {"model": NewWebhookSecret, "description": "The secret, told this once."}}
        body = openapi_body(SecretBody)
        body["requestBody"]["required"] = False
        add(
            ["POST"], kept, self.make_secret, "createWebhookSecret", ADMIN, made, 400, 413, 429,
            status_code=201, openapi_extra=body,
        )  # fmt: skip
        every: dict[int | str, dict[str, Any]] = {200: {"model": SecretList}}
        add(["GET"], kept, self.list_secrets, "listWebhookSecrets", ADMIN, every, 429)
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is forgotten."}}
        path = kept + "/{name}"
        add(
            ["DELETE"], path, self.forget_secret, "deleteWebhookSecret", ADMIN, gone, 404, 429,
            status_code=204,
        )  # fmt: skip
        return routes.router

    async def list_webhooks(
        self, request: Request, wanted: Annotated[WebhookFilter, Query()]
    ) -> Response:
        """List webhooks of runs, newest first."""
        found = await self._store.list_webhooks(
            state=wanted.state,
            run_id=wanted.run_id,
            tenant=caller(request).tenant or None,
            before=wanted.before,
            limit=wanted.limit + 1,
        )
        webhooks = found[: wanted.limit]
        following = webhooks[-1].id if len(found) > wanted.limit else None
        return _json(WebhookPage(webhooks=webhooks, next=following))

    async def get_webhook(self, request: Request, webhook_id: str) -> Response:
        """Look at a webhook: how often it was tried, and what its receiver said last."""
        tenant = caller(request).tenant or None
        found = await self._store.get_webhook(_no_nul(webhook_id), tenant=tenant)
        if found is None:
            raise UnknownWebhook(webhook_id)
        return _json(found)

    async def resend(self, request: Request, webhook_id: str) -> Response:
        """Send a webhook once more, with the same id, whatever became of it before.

        One that was given up is tried once; it is given up again if that fails.
        """
        tenant = caller(request).tenant or None
        found = await self._store.resend_webhook(
            _no_nul(webhook_id), datetime.now(UTC), tenant=tenant
        )
        if found is None:
            raise UnknownWebhook(webhook_id)
        self._sender.wake()
        return _json(found, status_code=202)

    async def make_secret(self, request: Request) -> Response:
        """Make a secret that signs webhooks, or replace one; the body may be left out.

        It is told this once. Whoever gets webhooks checks with it that they come from here: the
        headers `webhook-id`, `webhook-timestamp` and `webhook-signature` are those of Standard
        Webhooks (https://www.standardwebhooks.com).
        """
        body = await read_body(request, self._max_body_bytes)
        try:
            asked = SecretBody.model_validate_json(body) if body.strip() else SecretBody()
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
        secret = new_secret(new_random())
        kept = await self._store.put_webhook_secret(
            caller(request).tenant, asked.name, secret, datetime.now(UTC)
        )
        made = NewWebhookSecret(**kept.model_dump(), secret=secret)
        return _json(made, status_code=201, headers={"Cache-Control": "no-store"})

    async def list_secrets(self, request: Request) -> Response:
        """List the secrets that there are, without what they are."""
        kept = await self._store.list_webhook_secrets(caller(request).tenant)
        return _json(SecretList(secrets=kept))

    async def forget_secret(self, request: Request, name: str) -> Response:
        """Forget a secret; what it was to sign is not sent any more."""
        if not await self._store.delete_webhook_secret(caller(request).tenant, _no_nul(name)):
            raise UnknownWebhook(name, "webhook secret")
        return Response(status_code=204)


def _since() -> datetime:
    return datetime.now(UTC) - timedelta(hours=PREVIOUS_SECRET_H)


def _no_nul(text: str) -> str:
    """Return an id of a path as the database takes it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _json(
    model: BaseModel, *, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        model.model_dump_json(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )
