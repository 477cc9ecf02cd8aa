"""`/v1/async`: typed requests that take a while: start one, then get, follow or cancel its job.

A job is a run: it is accepted once, kept, and ends exactly once. Its token is the run's id.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import AgentrayError, UnknownRequestType, UnknownRun
from agentray.gateway.auth import INVOKE, READ, Caller, KeyRing, caller
from agentray.gateway.bodies import MAX_TIMEOUT_S, check_wait, openapi_body, read_body
from agentray.gateway.fronts import FrontDesk, Order, has_nul
from agentray.gateway.openapi import KEY_HEADER
from agentray.gateway.problems import FieldProblem, from_fields, from_validation, invalid
from agentray.gateway.routes import Routes
from agentray.gateway.streaming import logger, parse_last_event_id
from agentray.ids import AgentId, check_type_name
from agentray.protocol.async_jobs import JobStatus, JobType, StartedJob
from agentray.protocol.cursors import Cursor
from agentray.protocol.event_runs import OnError
from agentray.protocol.requests import FRONT, REQUEST, TYPED
from agentray.protocol.runs import EventKind, RunEvent, RunStatus
from agentray.runtime.newest import up_to_date
from agentray.runtime.typed_jobs import (
    TypeOfRequests,
    job_status,
    job_types,
    last_progress,
    read_job,
    types_of_requests,
)
from agentray.store.base import StoredRun

_TERMINAL_KINDS = frozenset(status.value for status in TERMINAL)
_KEEPALIVE = b": keepalive\n\n"
_CANCEL_WAIT_S = 10.0


class StartBody(BaseModel):
    """The body of `POST /v1/async/{type}/start`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"request": {"rows": 100}, "agent": "reporter/monthly"}]},
    )

    request: dict[str, Any] = Field(description="The request's fields.")
    agent: str | None = Field(
        default=None,
        description="Who is asked: an agent type (a fresh instance answers) or type/key. Left out: "
        "the only agent type that answers such requests.",
    )
    session: str | None = Field(
        default=None, description="Of a prompt: the session that it is given in."
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_S,
        allow_inf_nan=False,
        description="Seconds from its acceptance after which it is ended.",
    )
    on_error: Literal["fail", "collect"] = Field(
        default="fail",
        description="What an error in a part of it means: it fails, or it is COMPLETE and tells "
        "them as `failures`.",
    )

    @field_validator("agent")
    @classmethod
    def _check_agent(cls, agent: str | None) -> str | None:
        if agent is not None:
            check_type_name(agent) if "/" not in agent else AgentId.parse(agent)
        return agent


class JobWait(BaseModel):
    """How to look at a job."""

    model_config = ConfigDict(extra="forbid")

    wait_s: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait until it has ended; the gateway cuts what it finds too long.",
    )
    after: int | None = Field(
        default=None,
        ge=-1,
        le=2**53,
        description="The `cursor` of an earlier answer: the wait ends with the next progress, too.",
    )


class AsyncJobs:
    """The jobs of typed requests."""

    def __init__(self, desk: FrontDesk, keys: KeyRing) -> None:
        self._desk = desk
        self._store = desk.services.store
        self._max_wait_s = desk.settings.max_wait_s
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        add = (routes := Routes("/v1/async", "async jobs", keys)).add
        started: dict[int | str, dict[str, Any]] = {
            202: {"model": StartedJob, "description": "The job is accepted."}
        }
        status: dict[int | str, dict[str, Any]] = {
            200: {"model": JobStatus, "description": "It has ended, or waits for an answer."},
            202: {"model": JobStatus, "description": "It has not ended yet."},
        }
        events: dict[int | str, dict[str, Any]] = {
            200: {
                "description": "`progress`, `text` and at the end `complete` or `failed`, each "
                "with the job as it is then.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            }
        }
        body = {**openapi_body(StartBody), "parameters": [KEY_HEADER]}
        add(["GET"], "", self.list_types, "listJobTypes", READ, {200: {"model": list[JobType]}})
        starting = (400, 404, 409, 413, 429)
        add(
            ["POST"], "/{type}/start", self.start, "startJob", INVOKE, started, *starting,
            openapi_extra=body,
        )  # fmt: skip
        add(["GET"], "/{type}/get/{token}", self.get, "getTypedJob", READ, status, 404)
        add(["GET"], "/{type}/stream/{token}", self.stream, "streamJob", READ, events, 400, 404)
        add(["POST"], "/{type}/cancel/{token}", self.cancel, "cancelJob", INVOKE, status, 404)
        return routes.router

    def _types(self) -> Mapping[str, TypeOfRequests]:
        """Return the types of requests that agents answer now."""
        return types_of_requests(self._desk.services.dispatcher.agent_types().values())

    async def list_types(self) -> Response:
        """List the types of requests that agents answer, with their schemas."""
        types = [each.model_dump(mode="json") for each in job_types(self._types())]
        return Response(json.dumps(types), media_type="application/json")

    async def start(self, type: str, request: Request) -> Response:
        """Start the job of a request.

        It is kept before it begins; from then on it ends exactly once, whatever happens to this
        connection or to the machine that works on it. With an `Idempotency-Key` the request may be
        repeated safely for 24 hours.
        """
        data = await read_body(request, self._desk.settings.max_body_bytes)
        try:
            body = StartBody.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise from_validation(error.errors(), "body") from error
        dispatcher, named = self._desk.services.dispatcher, _address(body.agent)[0]
        if named is not None and named not in dispatcher.agent_types():
            await dispatcher.newest()
        order = await up_to_date(dispatcher, lambda: self._order(type, body))
        admitted = await self._desk.admit(order, request)
        token = admitted.admission.run.id
        return Response(
            StartedJob(token=token).model_dump_json(),
            status_code=202,
            headers={"Location": f"/v1/async/{type}/get/{token}"},
            media_type="application/json",
        )

    def _order(self, name: str, body: StartBody) -> Order:
        types = self._types()
        found = types.get(name)
        if found is None:
            raise UnknownRequestType(name, tuple(sorted(types)))
        _check(body.request, found.schema)
        options = {"timeout_s": body.timeout_s}
        more: dict[str, Any] = {FRONT: {"api": TYPED, "type": name}}
        if body.on_error != OnError.FAIL:
            more["on_error"] = body.on_error
        asked = json.dumps([name, body.model_dump(mode="json")], sort_keys=True)
        if found.event_type is None:
            agent_type, key = _address(body.agent)
            prompt = body.request["prompt"]
            if body.session is not None and body.agent is not None:
                raise invalid("agent", "body", "the session's agent takes it")
            return Order(agent_type, key, prompt, more, asked, options, session=body.session)
        if body.session is not None:
            raise invalid("session", "body", "only a prompt is given in a session")
        agent_type, key = self._answering(name, found, body.agent)
        more[REQUEST] = {"event_type": found.event_type, **body.request}
        return Order(agent_type, key, "", more, asked, options, prompted=False)

    def _answering(
        self, name: str, found: TypeOfRequests, agent: str | None
    ) -> tuple[str | None, str | None]:
        agent_type, key = _address(agent)
        answering = ", ".join(sorted(found.agents))
        if agent_type is None:
            if len(found.agents) > 1:
                raise invalid("agent", "body", f"say who is asked: {answering}")
            return next(iter(found.agents)), None
        if agent_type not in found.agents:
            told = f"agents of {agent_type!r} do not answer {name!r}; these do: {answering}"
            raise invalid("agent", "body", told)
        return agent_type, key

    async def get(
        self,
        type: str,
        token: str,
        wanted: Annotated[JobWait, Query()],
        request: Request,
    ) -> Response:
        """Look at a job; with `wait_s`, wait that long for its end, or for its next progress."""
        asks = caller(request)
        found = await self._find(type, token, asks)
        wait_s = min(wanted.wait_s, self._max_wait_s)
        if wait_s > 0 and not is_settled(found.run):
            await self._wait(found, wanted.after, wait_s)
            found = await self._find(type, token, asks)
        return await self._answer(found)

    async def cancel(self, type: str, token: str, request: Request) -> Response:
        """End a job; one that has ended is returned as it is."""
        asks = caller(request)
        found = await self._find(type, token, asks)
        await self._desk.ends.cancel(found.run.id, check_wait(None, _CANCEL_WAIT_S))
        return await self._answer(await self._find(type, token, asks))

    async def stream(self, type: str, token: str, request: Request) -> Response:
        """Follow a job to its end as Server-Sent Events.

        `data:` is the job as it is then; with `text`, a piece of text as `{"text": …}`. Send the
        last `id:` as `Last-Event-ID` to go on after it.
        """
        found = await self._find(type, token, caller(request))
        cursor = parse_last_event_id(request.headers.get("last-event-id"))
        return StreamingResponse(
            self._events(found, cursor, caller(request)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    # What has become of one

    async def _find(self, name: str, token: str, asks: Caller) -> StoredRun:
        found = await self._desk.find(token, asks)
        front: Mapping[str, Any] = found.input.get(FRONT) or {}
        if front.get("api") != TYPED or front.get("type") != name:
            raise UnknownRun(token)
        return found

    async def _wait(self, found: StoredRun, after: int | None, wait_s: float) -> None:
        cursor = Cursor(found.events - 1 if after is None else after)
        try:
            async with (
                asyncio.timeout(wait_s),
                aclosing(self._desk.streams.follow(found.run, cursor)) as events,
            ):
                async for event in events:
                    if event is None:
                        continue
                    if after is not None and event.kind == EventKind.PROGRESS:
                        # Shown before it is kept; what is told is read from what is kept.
                        await self._until_kept(found.run.id, event)
                        return
                    if event.kind in _TERMINAL_KINDS or event.kind == RunStatus.WAITING:
                        return
        except TimeoutError:
            return

    async def _until_kept(self, run_id: str, event: RunEvent) -> None:
        while (stored := await self._store.get_run(run_id)) is not None:
            if stored.events > event.offset or stored.run.status in TERMINAL:
                return
            await asyncio.sleep(0.02)

    async def _answer(self, found: StoredRun) -> Response:
        status = await self.status(found)
        return Response(
            status.model_dump_json(),
            status_code=200 if is_settled(found.run) else 202,
            media_type="application/json",
        )

    async def status(self, found: StoredRun) -> JobStatus:
        """Return a job as it is now."""
        return await read_job(self._store, found)

    async def _events(self, found: StoredRun, cursor: Cursor, asks: Caller) -> AsyncIterator[bytes]:
        name = found.input[FRONT]["type"]
        try:
            async for event in self._desk.streams.follow(found.run, cursor):
                if event is None:
                    yield _KEEPALIVE
                elif event.kind == EventKind.TEXT_DELTA:
                    yield _sse(event, "text", json.dumps({"text": event.data.get("text")}))
                elif event.kind == EventKind.PROGRESS:
                    now = job_status(found, last_progress([event]), event.offset)
                    yield _sse(event, "progress", now.model_dump_json())
                elif event.kind in _TERMINAL_KINDS:
                    now = await self.status(await self._find(name, found.run.id, asks))
                    yield _sse(event, now.state.value.lower(), now.model_dump_json())
        except AgentrayError as error:
            extra = {"action": "events_cut", "run": found.run.id}
            logger.warning("events end early: %s", error, extra=extra)


def _sse(event: RunEvent, kind: str, data: str) -> bytes:
    return f"id: {Cursor.at(event)}\nevent: {kind}\ndata: {data}\n\n".encode()


def _address(agent: str | None) -> tuple[str | None, str | None]:
    if agent is None:
        return None, None
    type_name, slash, key = agent.partition("/")
    return type_name, key if slash else None


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    return Draft202012Validator(json.loads(schema))


def _check(request: dict[str, Any], schema: str) -> None:
    """Refuse a request that its schema does not allow.

    Raises:
        HttpProblem: 422, with the fields that are wrong.
    """
    errors = [
        FieldProblem(
            field=".".join(["request", *map(str, error.absolute_path)]),
            location="body",
            message=error.message[:500],
        )
        for error in _validator(schema).iter_errors(request)
    ]
    if not errors and has_nul(request):
        told = "NUL characters cannot be stored"
        errors.append(FieldProblem(field="request", location="body", message=told))
    if errors:
        raise from_fields(errors)
