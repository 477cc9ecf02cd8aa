"""`/v1/dead-letters`: what came to nothing with nobody there to hear of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from agentray.errors import UnknownDeadLetter
from agentray.gateway.auth import ADMIN, READ, Caller, KeyRing, caller
from agentray.gateway.openapi import run_content
from agentray.gateway.problems import invalid
from agentray.gateway.routes import Routes
from agentray.gateway.runs import run_response
from agentray.gateway.services import Services
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.runtime.letter_desk import purge_all
from agentray.runtime.letter_retries import LetterRetries


class DeadLetterPage(BaseModel):
    """Some dead letters, newest first."""

    dead_letters: list[DeadLetter]
    next: str | None = Field(description="Give it as `before` for the next page; null: the last.")


class Purged(BaseModel):
    """What was forgotten."""

    purged: int = Field(description="How many dead letters.")


class LetterMatch(BaseModel):
    """Which dead letters are meant."""

    model_config = ConfigDict(extra="forbid")

    kind: LetterKind | None = Field(default=None, description="Only these.")
    reason: LetterReason | None = Field(default=None, description="Only for this reason.")
    agent: str | None = Field(
        default=None,
        max_length=1024,
        description="Only those for an agent, as type/key, or for agents of a type.",
    )
    retried: bool | None = Field(
        default=None, description="Only those that were tried once more, or that were not."
    )

    def query(self, asks: Caller, until: datetime | None = None) -> LetterQuery:
        """Return it as a query for those that the caller may see."""
        if self.agent is not None and "\0" in self.agent:
            raise invalid("agent", "query", "it is no text")
        tenant = asks.tenant or None
        return LetterQuery(self.kind, self.reason, self.agent, self.retried, until, tenant=tenant)


class LetterFilter(LetterMatch):
    """Which dead letters to list."""

    limit: int = Field(default=50, ge=1, le=200, description="Most dead letters to return.")
    before: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^dead_\w+$",
        description="Id of the last dead letter already seen.",
    )


class LetterPurge(LetterMatch):
    """Which dead letters to forget."""

    older_than_s: float | None = Field(
        default=None, ge=0, le=1e10, allow_inf_nan=False, description="Only older ones, in seconds."
    )
    all: bool = Field(default=False, description="Needed where nothing else is said.")


class DeadLetters:
    """The dead letters resource."""

    def __init__(self, services: Services, keys: KeyRing) -> None:
        self._store = services.store
        self._retries = LetterRetries(services.store, services.dispatcher)
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("/v1/dead-letters", "dead letters", keys)).add
        page: dict[int | str, dict[str, Any]] = {200: {"model": DeadLetterPage}}
        one: dict[int | str, dict[str, Any]] = {200: {"model": DeadLetter}}
        again: dict[int | str, dict[str, Any]]
        again = {202: {"description": "The run.", "content": run_content("queued")}}
        purged: dict[int | str, dict[str, Any]] = {200: {"model": Purged}}
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is forgotten."}}
        add(["GET"], "", self.list_letters, "listDeadLetters", READ, page)
        add(["GET"], "/{letter_id}", self.get_letter, "getDeadLetter", READ, one, 404)
        add(
            ["POST"], "/{letter_id}/retry", self.retry, "retryDeadLetter", ADMIN, again, 404, 409,
            status_code=202,
        )  # fmt: skip
        add(["DELETE"], "", self.purge, "purgeDeadLetters", ADMIN, purged)
        add(
            ["DELETE"], "/{letter_id}", self.forget, "forgetDeadLetter", ADMIN, gone, 404,
            status_code=204,
        )  # fmt: skip
        return routes.router

    async def list_letters(
        self, request: Request, wanted: Annotated[LetterFilter, Query()]
    ) -> Response:
        """List dead letters, newest first."""
        found = await self._store.list_dead_letters(
            wanted.query(caller(request)), limit=wanted.limit + 1, before=wanted.before
        )
        letters = found[: wanted.limit]
        following = letters[-1].id if len(found) > wanted.limit else None
        return _json(DeadLetterPage(dead_letters=letters, next=following))

    async def get_letter(self, request: Request, letter_id: str) -> Response:
        """Look at a dead letter."""
        return _json(await self._find(letter_id, caller(request)))

    async def retry(self, request: Request, letter_id: str) -> Response:
        """Try a dead letter once more, as a run.

        An event without subscribers goes to those that it has now; every other event, and what was
        told, to the agent that it was for. A run that died is run anew, as another run. However
        often it is asked for, there is one run until that has ended without success.
        """
        if caller(request).tenant:
            await self._find(letter_id, caller(request))
        run = await self._retries.retry(letter_id)
        location = {"Location": f"/v1/runs/{run.id}"}
        return run_response(run, status_code=202, headers=location)

    async def purge(self, request: Request, wanted: Annotated[LetterPurge, Query()]) -> Response:
        """Forget dead letters, those that are named; with `all`, every one."""
        said = wanted.model_dump(exclude_none=True, exclude={"all"})
        if not said and not wanted.all:
            raise invalid("all", "query", "say which, or all=true")
        age = wanted.older_than_s
        until = None if age is None else datetime.now(UTC) - timedelta(seconds=age)
        query = wanted.query(caller(request), until)
        return _json(Purged(purged=await purge_all(self._store, query)))

    async def forget(self, request: Request, letter_id: str) -> Response:
        """Forget a dead letter."""
        await self._find(letter_id, caller(request))
        await self._store.purge_dead_letters(LetterQuery(ids=[letter_id]))
        return Response(status_code=204)

    async def _find(self, letter_id: str, asks: Caller) -> DeadLetter:
        stored = await self._store.get_dead_letter(letter_id) if "\0" not in letter_id else None
        if stored is None or not asks.sees(stored.owner):
            raise UnknownDeadLetter(letter_id)
        return stored.letter

    async def close(self) -> None:
        """Let go of the runs that were begun: their hosts go on."""
        await self._retries.close()


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
