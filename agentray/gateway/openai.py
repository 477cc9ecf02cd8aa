"""OpenAI's interfaces: `/v1/models`, `/v1/chat/completions` and `/v1/responses`.

Agents that take prompts are models. Each request is a run as every other: it is kept before it
begins, `/v1/runs` has it, and a client that hangs up does not end it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from agentray.compat.openai import answers, errors, openapi
from agentray.compat.openai.chat_params import parse_chat
from agentray.compat.openai.errors import RequestRefused, invalid_value
from agentray.compat.openai.params import Common, check_accepted, check_storable
from agentray.compat.openai.responses_params import ResponsesParams, parse_response
from agentray.compat.openai.streams import ChatStream, ResponseStream
from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import (
    AgentNotVisible,
    AgentrayError,
    ConfigurationError,
    NoHandler,
    UnknownAgentType,
    UnknownRun,
    UnknownState,
)
from agentray.gateway.auth import INVOKE, READ, Caller, KeyRing, RequireScope, caller
from agentray.gateway.bodies import read_body
from agentray.gateway.fronts import FrontDesk, Order
from agentray.gateway.problems import from_error
from agentray.ids import AgentId
from agentray.protocol.chat import Chat, ChatMessage
from agentray.protocol.cursors import Cursor
from agentray.protocol.requests import CHAT, FRONT
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.protocol.snapshot import TypeView
from agentray.store.base import StoredRun

_TERMINAL_KINDS = frozenset(status.value for status in TERMINAL)
_KEEPALIVE = b": keepalive\n\n"
_CANCEL_WAIT_S = 10.0
_GROWN = 4
"""A conversation may grow to so many times the largest request."""

_CHAT_NAMES = {"tools": "tools", "json_schema": "response_format", "messages": "messages"}
_RESPONSE_NAMES = {"tools": "tools", "json_schema": "text.format", "messages": "input"}


class ResponseQuery(BaseModel):
    """How a response is got back."""

    model_config = ConfigDict(extra="ignore")  # such as `include`, which changes nothing here

    stream: bool = False
    starting_after: int = Field(
        default=-1, ge=-1, description="Of a stream: the number of the last event already seen."
    )


class ItemsQuery(BaseModel):
    """Which input items of a response are listed."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=20, ge=1, le=100)
    order: str = Field(default="desc", pattern="^(asc|desc)$")
    after: str | None = Field(default=None, description="The id of the last item already seen.")


class OpenAi:
    """The resources of OpenAI's API that agents can serve."""

    def __init__(self, desk: FrontDesk, keys: KeyRing) -> None:
        self._desk = desk
        self._settings = desk.settings
        self._dispatcher = desk.services.dispatcher
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["openai"])
        read, invoke = ([Depends(RequireScope(keys, scope))] for scope in (READ, INVOKE))

        def route(method: str, path: str, endpoint: Any, may: Any) -> None:
            said = openapi.OPERATIONS[f"{method} {path}"]
            router.add_api_route(
                path, endpoint, methods=[method], dependencies=may, response_class=Response, **said
            )

        route("GET", "/models", self.list_models, read)
        route("GET", "/models/{model:path}", self.get_model, read)
        route("POST", "/chat/completions", self.create_completion, invoke)
        route("POST", "/responses", self.create_response, invoke)
        route("GET", "/responses/{response_id}", self.get_response, read)
        route("DELETE", "/responses/{response_id}", self.delete_response, invoke)
        route("POST", "/responses/{response_id}/cancel", self.cancel_response, invoke)
        route("GET", "/responses/{response_id}/input_items", self.list_input, read)
        return router

    # Models

    async def list_models(self) -> Response:
        """List the agent types that take prompts."""
        return JSONResponse(answers.model_list(self._dispatcher.agent_types().values()))

    async def get_model(self, model: str) -> Response:
        """Look at one of them."""
        try:
            view = await self._view(model, model)
        except RequestRefused as error:
            return _refused(error)
        return (
            _refused(_unknown_model(model)) if view.stopped else JSONResponse(answers.model(view))
        )

    # Chat completions

    async def create_completion(self, request: Request) -> Response:
        """Go on with a conversation."""
        body = await read_body(request, self._settings.max_body_bytes)
        try:
            params = parse_chat(body)
            chat = params.chat()
            order = await self._order(params, chat, _CHAT_NAMES, {"api": answers.COMPLETIONS})
            with _of_model(params.model):
                admitted = await self._desk.admit(order, request)
        except RequestRefused as error:
            return _refused(error)
        run = admitted.admission.run
        headers = _headers(run)
        if params.stream:
            options = params.stream_options
            usage = bool(options and options.include_usage)
            stream = ChatStream(run, params.model, include_usage=usage)
            return _streamed(self._follow(stream, run, request), headers)
        run = await self._desk.wait(admitted, self._settings.openai_wait_s)
        if not is_settled(run):
            return _refused(self._too_long(run), headers)
        if run.status not in {RunStatus.SUCCEEDED, RunStatus.WAITING}:
            # It was tried, and has ended: asking again would be another run.
            return JSONResponse(
                errors.error_of_run(run), 500, headers={**headers, "x-should-retry": "false"}
            )
        return JSONResponse(answers.completion(run, params.model), headers=headers)

    def _too_long(self, run: Run) -> RequestRefused:
        waited = self._settings.openai_wait_s
        told = f"No answer within {waited:g} s. It goes on as {run.id}: look at /v1/runs/{run.id}."
        return RequestRefused(told, code="timeout", status=504)

    # Responses

    async def create_response(self, request: Request) -> Response:
        """Ask for a response."""
        body = await read_body(request, self._settings.max_body_bytes)
        try:
            params = parse_response(body)
            order = await self._response_order(params, request)
            with _of_model(params.model), _of_previous(params.previous_response_id or ""):
                admitted = await self._desk.admit(order, request)
        except RequestRefused as error:
            return _refused(error)
        run = admitted.admission.run
        headers = _headers(run)
        if params.stream:
            stream = ResponseStream(run, order.more)
            return _streamed(self._follow(stream, run, request), headers)
        wait_s = 0.0 if params.background else self._settings.openai_wait_s
        run = await self._desk.wait(admitted, wait_s)
        return JSONResponse(answers.response(run, order.more), headers=headers)

    async def _response_order(self, params: ResponsesParams, request: Request) -> Order:
        """Return the order of a response, which may go on with another one."""
        before: tuple[ChatMessage, ...] = ()
        previous: StoredRun | None = None
        if params.previous_response_id is not None:
            previous = await self._previous(params.previous_response_id, request)
            before = answers.said_before(previous.run, previous.input)
        front: dict[str, Any] = {"api": answers.RESPONSES, "store": params.stored}
        front |= {"own": len(params.messages()), "echo": params.echo()}
        order = await self._order(params, params.chat(before), _RESPONSE_NAMES, front)
        return order if previous is None else _going_on(order, previous)

    async def _previous(self, response_id: str, request: Request) -> StoredRun:
        found = await self._find(response_id, request)
        if found is None:
            raise _no_previous(response_id)
        if found.run.status not in TERMINAL:
            raise invalid_value(
                "previous_response_id", f"The response '{response_id}' has not ended yet."
            )
        return found

    async def get_response(
        self, response_id: str, wanted: Annotated[ResponseQuery, Query()], request: Request
    ) -> Response:
        """Get a response back, as it is now, or its events."""
        found = await self._find(response_id, request)
        if found is None:
            return _refused(_unknown_response(response_id))
        if wanted.stream:
            stream = ResponseStream(found.run, found.input, after=wanted.starting_after)
            return _streamed(self._follow(stream, found.run, request), _headers(found.run))
        return JSONResponse(answers.response(found.run, found.input), headers=_headers(found.run))

    async def cancel_response(self, response_id: str, request: Request) -> Response:
        """End a response that is under way; one that has ended stays as it is."""
        found = await self._find(response_id, request)
        if found is None:
            return _refused(_unknown_response(response_id))
        run = await self._desk.ends.cancel(found.run.id, _CANCEL_WAIT_S)
        run = run or await self._desk.reader.get(found.run.id, caller(request))
        return JSONResponse(answers.response(run, found.input), headers=_headers(run))

    async def delete_response(self, response_id: str, request: Request) -> Response:
        """Forget a response; one that is under way is ended first."""
        found = await self._find(response_id, request)
        if found is None:
            return _refused(_unknown_response(response_id))
        if found.run.status not in TERMINAL:
            await self._desk.ends.cancel(found.run.id, _CANCEL_WAIT_S)
        if not await self._desk.services.store.forget_run(found.run.id):
            told = f"The response '{response_id}' is being cancelled; delete it when it has ended."
            return _refused(RequestRefused(told, code="response_in_progress", status=409))
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def list_input(
        self, response_id: str, wanted: Annotated[ItemsQuery, Query()], request: Request
    ) -> Response:
        """List what a response was asked."""
        found = await self._find(response_id, request)
        if found is None:
            return _refused(_unknown_response(response_id))
        items = answers.input_items(found.input, found.run.id)
        if wanted.order == "desc":
            items.reverse()
        ids = [item["id"] for item in items]
        first = ids.index(wanted.after) + 1 if wanted.after in ids else 0
        page = items[first : first + wanted.limit]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": first + wanted.limit < len(items),
            }
        )

    async def _find(self, response_id: str, request: Request) -> StoredRun | None:
        try:
            found = await self._desk.find(answers.run_id_of(response_id), caller(request))
        except UnknownRun:
            return None
        return found if answers.is_response(found.input) else None

    # Both

    async def _order(
        self,
        params: Common,
        chat: Chat,
        names: Mapping[str, str],
        front: Mapping[str, Any],
    ) -> Order:
        view = await self._view(params.address()[0], params.model)
        check_accepted(chat, view.accepts, params.model, names=names)
        told = chat.model_dump(mode="json", exclude_none=True)
        check_storable(told, names["messages"])
        check_storable(front, "instructions")
        text = json.dumps(told)
        if len(text) > _GROWN * self._settings.max_body_bytes:
            raise RequestRefused(
                "The conversation is too long: begin another one.",
                param=names["messages"], code="context_length_exceeded",
            )  # fmt: skip
        agent_type, own_key = params.address()
        if own_key is not None and not _is_agent(params.model):
            raise _unknown_model(params.model)
        asked = params.model_dump_json(exclude={"stream", "stream_options", "background"})
        more = {CHAT: told, FRONT: dict(front)}
        return Order(agent_type, own_key, chat.text, more, asked, {})

    async def _view(self, agent_type: str, model: str) -> TypeView:
        if agent_type not in self._dispatcher.agent_types():
            await self._dispatcher.newest()
        view = self._dispatcher.agent_types().get(agent_type)
        if view is None or not view.prompts:
            raise _unknown_model(model)
        return view

    async def _follow(
        self, stream: ChatStream | ResponseStream, run: Run, request: Request
    ) -> AsyncIterator[bytes]:
        """Say what happens in a run until it ends, or waits for an answer."""
        asks = caller(request)
        try:
            for data in stream.begin():
                yield data
            async for event in self._desk.streams.follow(run, Cursor()):
                for data in (_KEEPALIVE,) if event is None else stream.feed(event):
                    yield data
                if event is not None and await self._is_last(event, run, asks):
                    break
            for data in stream.end(await self._desk.reader.get(run.id, asks)):
                yield data
        except AgentrayError as error:
            problem = from_error(error).document().model_dump_json(exclude_none=True)
            for data in stream.fail(errors.from_problem(problem.encode())[1]):
                yield data

    async def _is_last(self, event: RunEvent, run: Run, asks: Caller) -> bool:
        """Whether nothing more comes by itself: it has ended, or waits for an answer now."""
        if event.kind != RunStatus.WAITING:
            return event.kind in _TERMINAL_KINDS
        return (await self._desk.reader.get(run.id, asks)).status is RunStatus.WAITING


@contextmanager
def _of_model(model: str) -> Generator[None]:
    """Say in their words that there is no such agent."""
    try:
        yield
    except (UnknownAgentType, NoHandler, AgentNotVisible):
        raise _unknown_model(model) from None


@contextmanager
def _of_previous(response_id: str) -> Generator[None]:
    """Say in their words that nobody can go on with a response."""
    try:
        yield
    except UnknownRun:
        raise _no_previous(response_id) from None
    except UnknownState:
        raise RequestRefused(
            f"Others have gone on with '{response_id[:200]}', and its agent's state then is not "
            "kept any more: go on with a newer response, or send the messages as 'input'.",
            param="previous_response_id", code="previous_response_dropped",
        ) from None  # fmt: skip


def _going_on(order: Order, previous: StoredRun) -> Order:
    """Return an order that goes on with a response.

    A conversation stays with the agent that it began with, and its branches are agents of their
    own; one that names its agent is with that one. Another agent type begins anew.
    """
    agent = previous.agent
    if order.agent_type != agent.type or order.key not in {None, agent.key}:
        return order
    named = order.key is not None
    return replace(order, key=agent.key, goes_on=previous.run.id, may_branch=not named)


def _no_previous(response_id: str) -> RequestRefused:
    return RequestRefused(
        f"Previous response with id '{response_id[:200]}' not found.",
        param="previous_response_id", code="previous_response_not_found",
    )  # fmt: skip


def _is_agent(model: str) -> bool:
    """Whether `type/key` can be an agent: neither empty, nor too long, nor with what none has."""
    try:
        AgentId.parse(model)
    except ConfigurationError:
        return False
    return True


def _unknown_model(model: str) -> RequestRefused:
    told = f"The model '{model[:200]}' does not exist or you do not have access to it."
    return RequestRefused(told, code="model_not_found", status=404)


def _unknown_response(response_id: str) -> RequestRefused:
    told = f"Response with id '{response_id[:200]}' not found."
    return RequestRefused(told, code="response_not_found", status=404)


def _refused(error: RequestRefused, headers: Mapping[str, str] | None = None) -> Response:
    kind = errors.type_of(error.status)
    body = errors.error_body(error.message, kind, param=error.param, code=error.code)
    more = {} if error.retryable else {"x-should-retry": "false"}
    return JSONResponse(body, error.status, headers={**(headers or {}), **more})


def _headers(run: Run) -> dict[str, str]:
    """Return the headers of an answer; their SDK shows the first as `_request_id`."""
    return {"x-request-id": run.id}


def _streamed(chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingResponse:
    quiet = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers={**quiet, **headers})
