"""`/v1/sessions`: keyed agents, and the ordered runs of their prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from agentray.core.owners import tenant_of
from agentray.errors import PayloadError, SessionChanged
from agentray.gateway.auth import INVOKE, READ, Caller, KeyRing, caller
from agentray.gateway.bodies import read_body
from agentray.gateway.problems import (
    VERSION_MISMATCH,
    VERSION_REQUIRED,
    HttpProblem,
    from_validation,
    invalid,
)
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.ids import AgentId, check_type_name
from agentray.protocol.sessions import (
    Session,
    SessionFields,
    SessionQuery,
    SessionRun,
    check_session_id,
)
from agentray.runtime.session_book import SessionBook

_EXAMPLE: dict[str, JsonValue] = {
    "agent": "assistant",
    "access_level": "read",
    "title": "Questions about orders",
    "labels": {"team": "blue"},
    "ttl_s": 86400,
}
B = TypeVar("B", bound=BaseModel)

_ETAG = re.compile(r'(?:W/)?"?(\d{1,18})"?')


class _Checked(BaseModel):
    @field_validator("id", "agent", "title", check_fields=False)
    @classmethod
    def _check_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("NUL characters cannot be stored")
        return text

    @field_validator("labels", check_fields=False)
    @classmethod
    def _check_labels(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        if any("\0" in text for label in labels.items() for text in label):
            raise ValueError("NUL characters cannot be stored")
        return labels

    @field_validator("id", check_fields=False)
    @classmethod
    def _check_id(cls, session_id: str | None) -> str | None:
        return None if session_id is None else check_session_id(session_id)


class SessionBody(SessionFields, _Checked):
    """What may be changed of a session; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Done", "ttl_s": 3600}]})

    def changes(self) -> dict[str, Any]:
        """Return the fields that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewSessionBody(SessionFields, _Checked):
    """A session to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str | None = Field(
        default=None, description="1 to 100 letters, digits, `.`, `-`, `_`. Left out: a new one."
    )
    agent: str | None = Field(
        default=None,
        description="An agent type, which gets an agent of its own for the session, or type/key. "
        "Left out: the entry of the deployed app.",
    )

    @field_validator("agent")
    @classmethod
    def _check_agent(cls, agent: str | None) -> str | None:
        if agent is not None:
            check_type_name(agent) if "/" not in agent else AgentId.parse(agent)
        return agent

    def fields(self) -> SessionFields:
        """Return what may be changed."""
        names = SessionFields.model_fields
        return SessionFields(**{name: getattr(self, name) for name in names})


class CopyBody(SessionFields, _Checked):
    """A copy to be made of a session; what is left out is as in the original."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Another way"}]})

    id: str | None = Field(default=None, description="As of a new session.")

    def changes(self) -> dict[str, Any]:
        """Return the fields that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"id"}}


class SessionPage(BaseModel):
    """Some sessions, the last id first: of generated ids, the newest."""

    sessions: list[Session]
    next: str | None = Field(description="Give it as `before` for the next page; null: the last.")


class SessionFilter(BaseModel):
    """Which sessions to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most sessions to return.")
    before: str | None = Field(
        default=None, max_length=100, description="Id of the last one already seen."
    )
    label: list[str] = Field(
        default_factory=list[str],
        max_length=16,
        description="NAME:VALUE, a label that they have; may be repeated.",
    )
    owner: str | None = Field(
        default=None, max_length=200, description="Id of the API key that made them."
    )
    agent: str | None = Field(
        default=None, max_length=1024, description="Their agent's type, or their agent: type/key."
    )

    @field_validator("before", "owner", "agent")
    @classmethod
    def _check_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("no session has a NUL character there")
        return text

    @field_validator("label")
    @classmethod
    def _check_labels(cls, labels: list[str]) -> list[str]:
        for label in labels:
            if ":" not in label or "\0" in label:
                raise ValueError(f"{label!r} is not NAME:VALUE")
        return labels

    @field_validator("agent")
    @classmethod
    def _check_agent(cls, agent: str | None) -> str | None:
        if agent is not None:
            check_type_name(agent) if "/" not in agent else AgentId.parse(agent)
        return agent

    def query(self, tenant: str | None) -> SessionQuery:
        """Return which ones the Store is asked for."""
        labels = dict(label.split(":", 1) for label in self.label)
        type_name, slash, key = (self.agent or "").partition("/")
        return SessionQuery(labels, self.owner, type_name or None, key if slash else None, tenant)


class HistoryPage(BaseModel):
    """Some runs of a session, in their order."""

    runs: list[SessionRun]
    next: int | None = Field(description="Give it as `after` for the next page; null: the last.")


class HistoryFilter(BaseModel):
    """Which runs of a session to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most runs to return.")
    after: int = Field(
        default=0, ge=0, le=2**53, description="Number of the last run already seen."
    )
    rolled_back: bool = Field(default=False, description="Also those that were rolled back.")


class Sessions:
    """The sessions resource."""

    def __init__(self, services: Services, keys: KeyRing) -> None:
        self.book = SessionBook(services.store, services.dispatcher)
        self._max_bytes = services.settings.max_body_bytes
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("/v1/sessions", "sessions", keys)).add
        etag = {"ETag": {"schema": {"type": "string"}, "description": "Its version."}}
        one: dict[int | str, dict[str, Any]] = {200: {"model": Session, "headers": etag}}
        made: dict[int | str, dict[str, Any]] = {
            200: {"model": Session, "description": "It was there, and says the same."},
            201: {"model": Session, "description": "It is made.", "headers": etag},
        }
        copied: dict[int | str, dict[str, Any]] = {201: made[201]}
        page: dict[int | str, dict[str, Any]] = {200: {"model": SessionPage}}
        history: dict[int | str, dict[str, Any]] = {200: {"model": HistoryPage}}
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is gone."}}
        reading, at = (400, 404, 413), "/{session_id}"
        add(
            ["POST"], "", self.create, "createSession", INVOKE, made, *reading, 409,
            body=NewSessionBody,
        )  # fmt: skip
        add(["GET"], "", self.list_sessions, "listSessions", READ, page)
        add(["GET"], at, self.get, "getSession", READ, one, 404)
        changing = (*reading, 412, 428)
        add(["PATCH"], at, self.update, "updateSession", INVOKE, one, *changing, body=SessionBody)
        add(["DELETE"], at, self.delete, "deleteSession", INVOKE, gone, 404, 412)
        add(
            ["POST"], f"{at}/copy", self.copy, "copySession", INVOKE, copied, *reading, 409,
            body=CopyBody,
        )  # fmt: skip
        add(["GET"], f"{at}/runs", self.runs, "listSessionRuns", READ, history, 404)
        return routes.router

    async def create(self, request: Request) -> Response:
        """Make a session: an agent of its own that keeps its state from prompt to prompt.

        Prompts are given to it with `session` in `POST /v1/prompts`. Repeating the request with an
        `id` does no harm; another session under the same id, or for the same agent, is a 409.
        """
        body = await self._read(request, NewSessionBody)
        asks = caller(request)
        key, tenant = asks.key.id, tenant_of(asks.owner) or None
        with_id = (body.id, body.agent, body.fields(), key, tenant)
        try:
            session, created = await self.book.create(*with_id)
        except PayloadError as error:
            raise invalid("metadata", "body", str(error)) from error
        headers = {"Location": f"/v1/sessions/{session.id}"}
        return _answer(session, 201 if created else 200, headers)

    async def list_sessions(
        self, request: Request, wanted: Annotated[SessionFilter, Query()]
    ) -> Response:
        """List sessions, the last id first: of generated ids, the newest."""
        query = wanted.query(_tenant(caller(request)))
        found = await self.book.list(query, wanted.before, wanted.limit + 1)
        shown = found[: wanted.limit]
        more = shown[-1].id if len(found) > wanted.limit else None
        page = SessionPage(sessions=shown, next=more)
        return Response(page.model_dump_json(), media_type="application/json")

    async def get(self, request: Request, session_id: str) -> Response:
        """Look at a session."""
        return _answer(await self.book.get(session_id, _tenant(caller(request))))

    async def update(
        self, request: Request, session_id: str, if_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Change fields of a session; those that are left out stay.

        `If-Match` names the version that was read, from its `ETag`; `*`: whatever it is. Where
        somebody else has changed it meanwhile the answer is 412, and nothing is written.
        """
        if if_match is None:
            raise HttpProblem(
                VERSION_REQUIRED,
                "Name the version that you have read in If-Match, as its ETag does, or '*'.",
            )
        version = _version(if_match)
        body, tenant = await self._read(request, SessionBody), _tenant(caller(request))
        try:
            return _answer(await self.book.update(session_id, body.changes(), version, tenant))
        except SessionChanged as error:
            raise HttpProblem(VERSION_MISMATCH, str(error)) from error
        except PayloadError as error:
            raise invalid("metadata", "body", str(error)) from error

    async def delete(
        self, request: Request, session_id: str, if_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Delete a session. What it has under way is cancelled; its runs stay.

        The state of an agent that was made for it is forgotten behind that.
        """
        version = None if if_match is None else _version(if_match)
        try:
            await self.book.delete(session_id, version, _tenant(caller(request)))
        except SessionChanged as error:
            raise HttpProblem(VERSION_MISMATCH, str(error)) from error
        return Response(status_code=204)

    async def copy(self, request: Request, session_id: str) -> Response:
        """Make a session that goes on where this one stands: with its history and state.

        What is under way is no part of the copy.
        """
        body, asks = await self._read(request, CopyBody), caller(request)
        try:
            copy = await self.book.copy(
                session_id, body.id, body.changes(), asks.key.id, _tenant(asks)
            )
        except PayloadError as error:
            raise invalid("metadata", "body", str(error)) from error
        return _answer(copy, 201, {"Location": f"/v1/sessions/{copy.id}"})

    async def runs(
        self, request: Request, session_id: str, wanted: Annotated[HistoryFilter, Query()]
    ) -> Response:
        """List the runs of a session in their order, with what the agent was asked."""
        tenant = _tenant(caller(request))
        found = await self.book.runs(
            session_id, wanted.after, wanted.limit + 1, wanted.rolled_back, tenant
        )
        shown = list(found[: wanted.limit])
        more = shown[-1].number if len(found) > wanted.limit else None
        page = HistoryPage(runs=shown, next=more)
        return Response(page.model_dump_json(), media_type="application/json")

    async def _read(self, request: Request, kind: type[B]) -> B:
        """Read a body; one that is left out says nothing."""
        body = await read_body(request, self._max_bytes)
        try:
            return kind.model_validate_json(body if body.strip() else b"{}", strict=True)
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error


def _tenant(asks: Caller) -> str | None:
    return asks.tenant or None


def _version(if_match: str) -> int | None:
    """Return the version that `If-Match` names; None: any.

    Raises:
        HttpProblem: 422, it names none.
    """
    if if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise invalid("If-Match", "header", "Send the ETag of the session, or *")
    return int(found[1])


def _answer(
    session: Session, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        session.model_dump_json(),
        status_code=status_code,
        headers={"ETag": f'"{session.version}"', **(headers or {})},
        media_type="application/json",
    )
