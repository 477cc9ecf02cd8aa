"""Whether the process is up, and whether it can serve prompts. Neither needs a key."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel

from agentray.errors import StoreError
from agentray.gateway.openapi import problems
from agentray.gateway.problems import UNAVAILABLE, HttpProblem, retry_after
from agentray.gateway.services import Services

_PING_S = 2.0  # a probe wants an answer soon, not a correct one late


class Health(BaseModel):
    """A sign of life."""

    status: str


class HealthChecks:
    """The health endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.router = APIRouter(tags=["health"])
        self.router.add_api_route(
            "/healthz", self.healthz, operation_id="healthz", responses=problems(421)
        )
        self.router.add_api_route(
            "/readyz", self.readyz, operation_id="readyz", responses=problems(421, 500, 503)
        )

    async def healthz(self) -> Health:
        """Tell that the process is up."""
        return Health(status="ok")

    async def readyz(self) -> Health:
        """Tell whether prompts can be served; a 503 names what is missing."""
        missing = [*await self._missing_store(), *self._services.ready.ready()]
        if missing:
            raise HttpProblem(
                UNAVAILABLE,
                f"Not ready: {'; '.join(missing)}.",
                headers=retry_after(1),
                missing=missing,
            )
        return Health(status="ready")

    async def _missing_store(self) -> list[str]:
        try:
            async with asyncio.timeout(_PING_S):
                await self._services.store.ping()
        except (StoreError, TimeoutError):
            return ["the database does not answer"]
        return []
