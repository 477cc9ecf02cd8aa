"""`/repo/v1/agent/…`: agents, their sessions and chats, as `synapseclient` asks for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentray.compat import synapse, synapse_openapi
from agentray.core.lifecycle import is_settled
from agentray.core.owners import tenant_of
from agentray.errors import UnknownAgentType, UnknownRun
from agentray.gateway.auth import INVOKE, READ, KeyRing, RequireScope, caller
from agentray.gateway.bodies import openapi_body, read_body
from agentray.gateway.fronts import FrontDesk, Order
from agentray.gateway.problems import from_validation
from agentray.protocol.requests import FRONT
from agentray.protocol.sessions import SESSION, Session, SessionFields
from agentray.protocol.snapshot import TypeView
from agentray.runtime.newest import up_to_date
from agentray.runtime.trace_reader import read_trace
from agentray.runtime.typed_jobs import last_progress
from agentray.store.base import StoredRun

API = "synapse"

_WAIT_S = 0.9
"""How long a job is waited for at each request: the client itself asks once a second."""

_TRACED = 10_000
"""Events, the first ones, that a trace shows."""

Level = Literal["PUBLICLY_ACCESSIBLE", "READ_YOUR_PRIVATE_DATA", "WRITE_YOUR_PRIVATE_DATA"]
B = TypeVar("B", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class RegistrationBody(_Body):
    """An agent to be registered."""

    awsAgentId: str = Field(min_length=1, max_length=200, description="The agent type's name.")
    awsAliasId: str | None = Field(default=None, max_length=100, pattern="^[A-Za-z0-9_.-]*$")


class NewSessionBody(_Body):
    """A session to be started."""

    agentAccessLevel: Level = "PUBLICLY_ACCESSIBLE"
    agentRegistrationId: str | None = Field(
        default=None, description="Left out: the entry of the deployed app."
    )


class SessionBody(_Body):
    """What may be changed of a session."""

    agentAccessLevel: Level


class ChatBody(_Body):
    """A prompt in a session."""

    concreteType: str = synapse.CHAT_REQUEST
    sessionId: str
    chatText: str = Field(min_length=1)
    enableTrace: bool | None = None

    @field_validator("chatText")
    @classmethod
    def _check_text(cls, text: str) -> str:
        if "\0" in text:
            raise ValueError("NUL characters cannot be stored")
        return text


class TraceBody(_Body):
    """Which part of a trace is wanted."""

    newerThanTimestamp: Annotated[int, Field(ge=0)] | None = None


class SynapseAgents:
    """Agents as `synapseclient` knows them."""

    def __init__(self, desk: FrontDesk, keys: KeyRing) -> None:
        self._desk = desk
        self._store = desk.services.store
        self._dispatcher = desk.services.dispatcher
        self._max_bytes = desk.settings.max_body_bytes
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        router = APIRouter(prefix="/repo/v1", tags=["synapse"], default_response_class=Response)

        def route(
            method: str,
            path: str,
            endpoint: Any,
            name: str,
            body: type[BaseModel] | None = None,
            scope: str = INVOKE,
        ) -> None:
            extra = openapi_body(body) if body else None
            if extra is not None:
                described = extra["requestBody"]["content"]["application/json"]
                described["example"] = synapse_openapi.BODIES[name]
            router.add_api_route(
                path,
                endpoint,
                methods=[method],
                operation_id=name,
                dependencies=[Depends(RequireScope(keys, scope))],
                responses=synapse_openapi.responses(name),
                openapi_extra=extra,
            )

        route("GET", "/userProfile", self.profile, "synapseProfile", scope=READ)
        at = "/agent/registration"
        route("PUT", at, self.register, "synapseRegister", RegistrationBody)
        route("GET", f"{at}/{{id}}", self.registration, "synapseRegistration", scope=READ)
        at = "/agent/session"
        route("POST", at, self.start_session, "synapseStartSession", NewSessionBody)
        route("GET", f"{at}/{{id}}", self.get_session, "synapseSession", scope=READ)
        route("PUT", f"{at}/{{id}}", self.update_session, "synapseUpdateSession", SessionBody)
        at = "/agent/chat/async"
        route("POST", f"{at}/start", self.start_chat, "synapseStartChat", ChatBody)
        route("GET", f"{at}/get/{{token}}", self.get_chat, "synapseChat", scope=READ)
        trace = "/agent/chat/trace/{prompt_id}"
        route("POST", trace, self.trace, "synapseTrace", TraceBody, READ)
        return router

    async def profile(self, request: Request) -> Response:
        """Tell who asks: a login reads it."""
        key = caller(request).key
        return JSONResponse({"ownerId": key.id, "userName": key.name, "displayName": key.name})

    # Registrations

    async def register(self, request: Request) -> Response:
        """Register an agent: an agent type that takes prompts. Nothing is kept of it."""
        body = await self._read(request, RegistrationBody)
        found = synapse.Registration(body.awsAgentId, body.awsAliasId or "")
        return JSONResponse(found.told(await self._view(found)))

    async def registration(self, id: str) -> Response:
        """Look at a registration."""
        found = synapse.Registration.parse(id)
        return JSONResponse(found.told(await self._view(found)))

    async def _view(self, registration: synapse.Registration) -> TypeView:
        return await up_to_date(self._dispatcher, lambda: self._known(registration))

    def _known(self, registration: synapse.Registration) -> TypeView:
        types = self._dispatcher.agent_types()
        view = types.get(registration.agent_type)
        if view is None or not view.prompts:
            known = tuple(sorted(name for name, each in types.items() if each.prompts))
            raise UnknownAgentType(registration.agent_type, known)
        return view

    # Sessions

    async def start_session(self, request: Request) -> Response:
        """Start a session with a registered agent."""
        body, asks = await self._read(request, NewSessionBody), caller(request)
        metadata: dict[str, Any] = {}
        agent = None
        if body.agentRegistrationId is not None:
            registered = await self._view(synapse.Registration.parse(body.agentRegistrationId))
            agent = registered.name
            metadata[synapse.REGISTRATION] = body.agentRegistrationId
        level = synapse.LEVELS[body.agentAccessLevel]
        fields = SessionFields(access_level=level, metadata=metadata)
        tenant = tenant_of(asks.owner) or None
        made, _ = await self._desk.sessions.create(None, agent, fields, asks.key.id, tenant)
        return JSONResponse(synapse.session(made), 201)

    async def get_session(self, id: str, request: Request) -> Response:
        """Look at a session."""
        return JSONResponse(synapse.session(await self._session(id, request)))

    async def _session(self, session_id: str, request: Request) -> Session:
        return await self._desk.sessions.get(session_id, caller(request).tenant or None)

    async def update_session(self, id: str, request: Request) -> Response:
        """Change the access level of a session."""
        body = await self._read(request, SessionBody)
        changes = {"access_level": synapse.LEVELS[body.agentAccessLevel]}
        tenant = caller(request).tenant or None
        changed = await self._desk.sessions.update(id, changes, None, tenant)
        return JSONResponse(synapse.session(changed))

    # Chats

    async def start_chat(self, request: Request) -> Response:
        """Give a prompt in a session."""
        body = await self._read(request, ChatBody)
        front = {"api": API, "trace": bool(body.enableTrace)}
        order = Order(
            None, None, body.chatText, {FRONT: front}, body.model_dump_json(), {},
            session=body.sessionId,
        )  # fmt: skip
        admitted = await self._desk.admit(order, request)
        return JSONResponse({"token": admitted.admission.run.id}, 201)

    async def get_chat(self, token: str, request: Request) -> Response:
        """Look at what has become of a prompt, and wait for it for a moment."""
        found = await self._find(token, request)
        if not is_settled(found.run):
            await self._desk.reader.wait(found.run, _WAIT_S)
            found = await self._find(token, request)
        progress = None
        if not is_settled(found.run):
            first = max(-1, found.events - 1001)
            progress = last_progress(await self._store.run_events(found.run.id, after=first))
        status, told = synapse.job(found.run, found.input[SESSION], progress)
        return JSONResponse(told, status)

    async def trace(self, prompt_id: str, request: Request) -> Response:
        """Tell what happened in a chat."""
        body = await self._read(request, TraceBody)
        run = (await self._find(prompt_id, request)).run
        events = await self._store.run_events(run.id, limit=_TRACED)
        known = await read_trace(self._store, run.id)
        spans = known.spans if known else ()
        return JSONResponse(synapse.trace(run, events, spans, body.newerThanTimestamp))

    async def _find(self, token: str, request: Request) -> StoredRun:
        found = await self._desk.find(token, caller(request))
        if SESSION not in found.input:
            raise UnknownRun(token)
        return found

    async def _read(self, request: Request, model: type[B]) -> B:
        try:
            return model.model_validate_json(await read_body(request, self._max_bytes))
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
