"""`POST /v1/prompts`: ask an agent, and wait for the answer, follow it, or come back for it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from agentray import telemetry
from agentray.core.delays import begin_at
from agentray.core.lifecycle import TERMINAL
from agentray.errors import ConfigurationError, IdempotencyConflict
from agentray.event_loop import time_of_day
from agentray.gateway.admission import Admissions, Admitted
from agentray.gateway.auth import INVOKE, Caller, KeyRing, RequireScope, caller
from agentray.gateway.bodies import (
    PromptBody,
    check_idempotency_key,
    check_wait,
    openapi_body,
    parse_prompt,
    read_body,
)
from agentray.gateway.multipart import is_multipart, openapi_parts, read_parts
from agentray.gateway.openapi import EVENTS_CONTENT, KEY_HEADER, problems, run_content
from agentray.gateway.own_route import OwnRoute
from agentray.gateway.problems import invalid
from agentray.gateway.prompt_extras import (
    AttachmentBody,
    check_files,
    check_size,
    most_bytes,
    with_files,
)
from agentray.gateway.runs import RunReader, run_response
from agentray.gateway.services import Services
from agentray.gateway.streaming import RunStreams
from agentray.gateway.webhooks import PromptWebhooks
from agentray.ids import AgentId, check_traceparent, new_id
from agentray.protocol.attachments import ATTACHMENTS, OUTPUT_SCHEMA
from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import Run
from agentray.protocol.sessions import ACCESS, SESSION, Session
from agentray.runtime.newest import up_to_date
from agentray.runtime.session_book import SessionBook, refusal
from agentray.store.base import NewRun, run_input
from agentray.store.sessions import Refusal

_DESCRIPTION = """\
Gives an agent a prompt. The run is stored before it starts; from then on it ends exactly once,
whatever happens to this connection or to the machine that works on it.

- Ended within `wait_s`: **200** with the run. A run that failed is a 200 too: its `status` and
  `error` tell.
- Still going, or `waiting` for an answer: **202** with the run, and a `Location` to ask again.
- With `delay_s` or `at` the run begins later: **202** at once, with the run's `not_before`.
- `"stream": true`, or `Accept: text/event-stream`: the run's events as they happen.

Files come in base64 in `attachments`, or as they are: then the body is `multipart/form-data`, whose
part `request` is the JSON, and whose parts `attachments` are the files, each with its filename.

A `traceparent` header (W3C trace context) is continued: the agents' work belongs to that trace.

With an `Idempotency-Key` the request may be repeated safely for 24 hours: a repeat finds the same
run, another body under the same key is a 409.
"""


class Prompts:
    """The prompts resource."""

    def __init__(
        self,
        services: Services,
        keys: KeyRing,
        admissions: Admissions,
        reader: RunReader,
        streams: RunStreams,
        sessions: SessionBook,
        hooks: PromptWebhooks,
    ) -> None:
        self._services = services
        self._settings = services.settings
        self._admissions = admissions
        self._reader = reader
        self._streams = streams
        self._sessions = sessions
        self._hooks = hooks
        self._keys = keys

    def add_to(self, app: FastAPI) -> None:
        """Add the route to the app itself: a router in between takes each prompt 15 us."""
        app.router.add_api_route(
            "/v1/prompts",
            self.create,
            methods=["POST"],
            tags=["prompts"],
            dependencies=[Depends(RequireScope(self._keys, INVOKE))],
            route_class_override=OwnRoute,
            operation_id="createPrompt",
            summary="Prompt an agent",
            description=_DESCRIPTION,
            response_class=Response,
            responses={
                200: {
                    "description": "The run has ended; or its events, when asked to stream.",
                    "content": run_content("succeeded") | EVENTS_CONTENT,
                },
                202: {
                    "description": "The run is accepted and has not ended yet.",
                    "content": run_content("queued"),
                    "headers": {"Location": {"schema": {"type": "string"}}},
                },
                **problems(400, 401, 403, 404, 409, 413, 421, 422, 429, 500, 503),
            },
            openapi_extra={**openapi_parts(openapi_body(PromptBody)), "parameters": [KEY_HEADER]},
        )

    async def create(self, request: Request) -> Response:
        """Admit a run and answer as the request wants it.

        Raises:
            HttpProblem: the request is wrong.
            UnknownAgentType, NoHandler: nobody takes the prompt.
            UnknownSession, SessionBusy: its session does not.
            IdempotencyConflict: its key was used with another body.
            DeploymentStopped, StoreUnavailable, Overloaded, ChannelClosed: not now.
        """
        # The body is read and checked here, not by FastAPI: after the key, and within a limit.
        files: list[AttachmentBody] = []
        if is_multipart(request.headers.get("content-type", "")):
            body, files = await read_parts(request, self._settings)
        else:
            body = await read_body(request, most_bytes(self._settings))
        check_size(body, self._settings)
        prompt = parse_prompt(body, self._settings.max_wait_s)
        if prompt.webhook is not None:
            await self._hooks.check(prompt.webhook, caller(request))
        if prompt.attachments:
            check_files(prompt.attachments, body, self._settings)
        if files:
            both = with_files(prompt.attachments, files, self._settings)
            prompt = prompt.model_copy(update={"attachments": both})
        admitted = await self._admit(prompt, caller(request), request)
        admission = admitted.admission
        if prompt.webhook is not None:
            await self._hooks.keep(prompt.webhook, admission.run, caller(request))
            if admitted.driving is not None:
                admitted.driving.add_done_callback(self._hooks.run_ended)

        location = {"Location": f"/v1/runs/{admission.run.id}"}
        if prompt.stream or "text/event-stream" in request.headers.get("accept", ""):
            begins = admitted.driving is not None
            return self._streams.response(admission.run, Cursor(), location, begins=begins)
        wait_s = 0.0 if prompt.later and prompt.wait_s is None else prompt.wait_s
        wait_s = check_wait(wait_s, self._settings.max_wait_s)
        if admitted.driving is None:
            ended = await self._reader.wait(admission.run, wait_s)
        else:
            ended = await admitted.ended(wait_s) or admission.run
        return _answer(ended, location)

    async def _admit(self, prompt: PromptBody, asks: Caller, request: Request) -> Admitted:
        session = None
        while True:
            if prompt.session is not None:
                session = await self._sessions.get(prompt.session, asks.tenant or None)
            run = await self._new_run(prompt, asks, request, session)
            if asks.tenant and prompt.agent and "/" in prompt.agent:
                await self._sessions.check_agent(run.agent, asks.tenant)
            admitted = await self._admissions.admit(run)
            admission = admitted.admission
            if admission.conflict:
                raise IdempotencyConflict(run.idempotency_key or "", admission.run.id)
            if admission.refused is None:
                return admitted
            if admission.refused is not Refusal.CHANGED:
                raise refusal(run.session or "", admission)

    async def _new_run(
        self, prompt: PromptBody, asks: Caller, request: Request, session: Session | None
    ) -> NewRun:
        idempotency_key = request.headers.get("idempotency-key")
        traceparent = check_traceparent(request.headers.get("traceparent"))
        run_id = new_id("run")
        # Before anything is stored: a prompt that nobody takes leaves no run behind.
        address = prompt.address() if session is None else AgentId.parse(session.agent)
        dispatcher = self._services.dispatcher
        place = await up_to_date(dispatcher, lambda: dispatcher.place(*address, fresh_key=run_id))
        now = time_of_day()
        given = run_input(
            prompt.prompt,
            telemetry.current_traceparent() or traceparent,
            timeout_s=prompt.timeout_s,
            budget=prompt.budget,
            max_attempts=prompt.max_attempts,
            durability=prompt.durability,
            user=asks.user,
            trace=prompt.enable_trace,
        )
        if session is not None:
            given |= {SESSION: session.id, ACCESS: session.access_level.value}
        if prompt.attachments:
            given[ATTACHMENTS] = [attachment.as_input() for attachment in prompt.attachments]
        if prompt.output_schema is not None:
            given[OUTPUT_SCHEMA] = prompt.output_schema
        return NewRun(
            id=run_id,
            agent=place.agent,
            pool=place.pool,
            slot=place.slot,
            input=given,
            correlation_id=run_id,
            created_at=now,
            not_before=_begin(prompt, now),
            owner=asks.owner,
            idempotency_key=check_idempotency_key(idempotency_key),
            digest="" if idempotency_key is None else _digest(prompt),
            policy=prompt.policy,
        )


def _begin(prompt: PromptBody, now: datetime) -> datetime | None:
    """Return when a run begins; None: at once.

    Raises:
        HttpProblem: 422, that is too far away.
    """
    try:
        return begin_at(prompt.delay_s, prompt.at, now)
    except ConfigurationError as error:
        raise invalid("at", "body", str(error)) from error


def _answer(run: Run, location: dict[str, str]) -> Response:
    if run.status in TERMINAL:
        return run_response(run)
    return run_response(run, status_code=202, headers=location)


def _digest(prompt: PromptBody) -> str:
    """Return a hash of what is asked of whom; how the answer is awaited is no part of it."""
    asked: list[Any] = [prompt.prompt, prompt.agent]
    shown = {"timeout_s", "budget", "max_attempts", "durability", "delay_s", "at"}
    shown |= {"session", "policy", "webhook", "attachments", "output_schema", "enable_trace"}
    if options := prompt.model_dump(mode="json", include=shown, exclude_defaults=True):
        asked.append(options)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
