"""`/v1/keys`: API keys are made, listed and revoked."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentray.core.owners import check_tenant
from agentray.errors import AddressError
from agentray.gateway.auth import ADMIN, Caller, KeyRing, caller
from agentray.gateway.bodies import read_body
from agentray.gateway.problems import FORBIDDEN, HttpProblem, from_validation
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.protocol.keys import CreatedKey, KeyInfo, Scope
from agentray.runtime.api_keys import make_key
from agentray.store.keys import ApiKey

logger = logging.getLogger(__name__)


class NewKeyBody(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "shop", "scopes": ["invoke"], "tenant": "acme"}]},
    )

    name: str = Field(default="", max_length=200, description="For people.")
    scopes: set[Scope] = Field(
        min_length=1,
        description="`invoke`: give work and end it. `read`: look at it. `admin`: everything.",
    )
    tenant: str | None = Field(
        default=None,
        description="Whose it is: it sees what this tenant has, and nothing else. Left out: that "
        "of the key that asks, which may be none.",
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("use printable characters")
        return name

    @field_validator("tenant")
    @classmethod
    def _check_tenant(cls, tenant: str | None) -> str | None:
        return None if tenant is None else check_tenant(tenant)


class KeyPage(BaseModel):
    """Some keys, newest first."""

    keys: list[KeyInfo]
    next: str | None = Field(description="Give it as `before` for the next page; null: the last.")


class KeyFilter(BaseModel):
    """Which keys to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most keys to return.")
    before: str | None = Field(
        default=None, max_length=64, pattern=r"^key_\S+$", description="Id of the last one seen."
    )


class ApiKeys:
    """The keys resource."""

    def __init__(self, services: Services, keys: KeyRing) -> None:
        self._store = services.store
        self._max_bytes = services.settings.max_body_bytes
        self._keys = keys
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("/v1/keys", "keys", keys)).add
        made: dict[int | str, dict[str, Any]]
        made = {201: {"model": CreatedKey, "description": "It is made."}}
        one: dict[int | str, dict[str, Any]] = {200: {"model": KeyInfo}}
        page: dict[int | str, dict[str, Any]] = {200: {"model": KeyPage}}
        add(["POST"], "", self.create, "createKey", ADMIN, made, 400, 413, body=NewKeyBody)
        add(["GET"], "", self.list_keys, "listKeys", ADMIN, page)
        add(["GET"], "/{key_id}", self.get, "getKey", ADMIN, one, 404)
        add(["DELETE"], "/{key_id}", self.revoke, "revokeKey", ADMIN, one, 404)
        return routes.router

    async def create(self, request: Request) -> Response:
        """Make a key. The answer has it in `secret`, once: only its hash is kept.

        A key that belongs to a tenant makes keys of this tenant. Repeating the request makes
        another key.
        """
        try:
            body = NewKeyBody.model_validate_json(
                await read_body(request, self._max_bytes), strict=True
            )
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
        asks = caller(request)
        if asks.tenant and body.tenant not in {None, asks.tenant}:
            raise HttpProblem(FORBIDDEN, f"{asks.tenant} cannot make keys of another tenant.")
        key, secret = make_key(body.name, body.scopes, body.tenant or asks.tenant)
        await self._store.put_key(key)
        _audit("key_created", key, asks)
        shown = CreatedKey(**_info(key).model_dump(), secret=secret)
        # No cache on the way may keep it.
        headers = {"Location": f"/v1/keys/{key.id}", "Cache-Control": "no-store"}
        return _json(shown, status_code=201, headers=headers)

    async def list_keys(self, request: Request, wanted: Annotated[KeyFilter, Query()]) -> Response:
        """List keys, newest first, also those that were revoked."""
        found = await self._store.list_keys(
            tenant=caller(request).tenant or None, before=wanted.before, limit=wanted.limit + 1
        )
        shown = found[: wanted.limit]
        more = shown[-1].id if len(found) > wanted.limit else None
        return _json(KeyPage(keys=[_info(key) for key in shown], next=more))

    async def get(self, request: Request, key_id: str) -> Response:
        """Look at a key."""
        return _json(_info(await self._find(key_id, caller(request))))

    async def revoke(self, request: Request, key_id: str) -> Response:
        """Revoke a key: it opens nothing any more. Other replicas know within ten seconds.

        It stays in the list, with the time. Runs that were begun with it go on.
        """
        asks = caller(request)
        known = await self._find(key_id, asks)
        key = await self._store.revoke_key(key_id, datetime.now(UTC)) or known
        self._keys.forget(key.digest)
        if known.revoked_at is None:
            _audit("key_revoked", key, asks)
        return _json(_info(key))

    async def _find(self, key_id: str, asks: Caller) -> ApiKey:
        key = await self._store.get_key(key_id) if "\0" not in key_id else None
        if key is None or (asks.tenant and key.tenant != asks.tenant):
            raise AddressError(f"There is no API key {key_id!r}.")
        return key


def _audit(action: str, key: ApiKey, asks: Caller) -> None:
    """Note in the log who made or revoked which key. Names are left out: users give them."""
    logger.info(
        "%s %s by %s",
        action.replace("_", " "),
        key.id,
        asks.owner,
        extra={
            "action": action,
            "key": key.id,
            "tenant": key.tenant,
            "scopes": sorted(key.scopes),
            "by": asks.owner,
            "user": asks.user,
        },
    )


def _info(key: ApiKey) -> KeyInfo:
    return KeyInfo.model_validate(
        {
            "id": key.id,
            "name": key.name,
            "scopes": sorted(key.scopes),
            "tenant": key.tenant or None,
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
        }
    )


def _json(
    answer: BaseModel, *, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        answer.model_dump_json(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )
