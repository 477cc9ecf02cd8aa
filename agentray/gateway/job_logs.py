"""The logs of jobs: as a whole, and followed over HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from json.encoder import encode_basestring
from typing import Annotated, Any

from fastapi import Query, Request, WebSocket
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.websockets import WebSocketDisconnect

from agentray.core.job_log import MAX_MESSAGE_SIZE, MIN_MESSAGE_SIZE, Form
from agentray.core.log_limits import StreamLimits
from agentray.errors import AgentrayError, UnknownJob
from agentray.gateway.auth import READ, KeyRing, RequireScope, caller
from agentray.gateway.cluster_parts import ClusterParts
from agentray.gateway.problems import from_error, from_validation, invalid
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.gateway.sockets import deny
from agentray.jobs.feeds import Feed, LogHub
from agentray.jobs.tails import Tail, follow, whole
from agentray.runtime.job_ports import LogGone

logger = logging.getLogger(__name__)

_TRY_AGAIN = 1013  # of WebSockets
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class LogPart(BaseModel):
    """Which part of a log is wanted."""

    model_config = ConfigDict(extra="ignore")

    offset: int = Field(default=0, ge=0, lt=2**62, description="Of the first byte.")
    tail: int | None = Field(
        default=None, ge=0, le=10_000_000, description="The last lines instead, so many."
    )
    max_bytes: int | None = Field(default=None, ge=1, description="Of the log, at most.")

    @model_validator(mode="after")
    def _check_begin(self) -> LogPart:
        if self.tail is not None and "offset" in self.model_fields_set:
            raise ValueError("offset and tail cannot both say where to begin")
        return self


class TailQuery(LogPart):
    """How a log is followed."""

    format: str | None = Field(
        default=None,
        pattern="^(frames|blocks|plain)$",
        description="`frames`: JSON with the byte offset of each line; `blocks`: the same, whole "
        "lines as one text; else plain text.",
    )
    follow: bool = Field(default=True, description="Go on as the log grows.")
    max_lines: int | None = Field(default=None, ge=1)
    max_messages: int | None = Field(default=None, ge=1)
    max_message_size: int = Field(
        default=MAX_MESSAGE_SIZE,
        ge=MIN_MESSAGE_SIZE,
        le=1_048_576,
        description="Characters of a frame or of a line of plain text, at most.",
    )

    def as_tail(self, plain: Form) -> Tail:
        """Return what is wanted of the feed."""
        limits = StreamLimits(
            self.max_lines, self.max_bytes, self.max_messages, self.max_message_size
        )
        form = Form(self.format) if self.format in {"frames", "blocks"} else plain
        return Tail(form, self.offset, self.tail, self.follow, limits)


class JobLogs:
    """The logs of jobs."""

    def __init__(self, services: Services, parts: ClusterParts, keys: KeyRing) -> None:
        self._hub = LogHub(services.store, parts.runner)
        self._require = RequireScope(keys, READ)
        self.router = self._routes(keys)

    async def close(self) -> None:
        """End all tails."""
        await self._hub.close()

    def _routes(self, keys: KeyRing) -> Any:
        routes = Routes("/v1/jobs/{job_id}/logs", "jobs", keys)
        text: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
        log: dict[int | str, dict[str, Any]] = {
            200: {
                "description": "The log, as a JSON string; as it is with `Accept: text/plain`.",
                "content": {"application/json": {"schema": {"type": "string"}}, **text},
            }
        }
        stream: dict[int | str, dict[str, Any]] = {
            200: {
                "description": "Lines of the log, or frames.",
                "content": {**text, "application/x-ndjson": {"schema": {"type": "string"}}},
            }
        }
        routes.add(["GET"], "", self.get, "getJobLog", READ, log, 404)
        routes.add(["GET"], "/stream", self.stream, "streamJobLog", READ, stream, 404, 429)
        routes.router.add_api_websocket_route("/v1/jobs/{job_id}/logs", self.websocket)
        return routes.router

    async def get(
        self, request: Request, job_id: str, wanted: Annotated[LogPart, Query()]
    ) -> Response:
        r"""Return the log of a job as it is now.

        Bytes that are no UTF-8 are shown as `\xff` in the JSON string. Asked for over a WebSocket,
        it is followed.
        """
        stack = contextlib.AsyncExitStack()
        feed = await stack.enter_async_context(self._visible(request, job_id))
        limits = StreamLimits(max_bytes=wanted.max_bytes)
        tail = Tail(Form.TEXT, wanted.offset, wanted.tail, follow=False, limits=limits)
        plain = "text/plain" in request.headers.get("accept", "")
        kind = "text/plain; charset=utf-8" if plain else "application/json"
        chunks = whole(feed, tail) if plain else _as_json(whole(feed, tail))
        return StreamingResponse(_closing(stack, chunks), media_type=kind, headers=_HEADERS)

    async def stream(
        self, request: Request, job_id: str, wanted: Annotated[TailQuery, Query()]
    ) -> Response:
        """Follow the log of a job over HTTP."""
        tail = wanted.as_tail(Form.TEXT)
        stack = contextlib.AsyncExitStack()
        feed = await stack.enter_async_context(self._visible(request, job_id))
        try:
            _check_offset(feed, tail)
        except AgentrayError:
            await stack.aclose()
            raise
        exact = tail.form.exact
        kind = "application/x-ndjson" if exact else "text/plain; charset=utf-8"
        end = "\n" if exact else ""
        chunks = _encoded(follow(feed, tail), end)
        return StreamingResponse(_closing(stack, chunks), media_type=kind, headers=_HEADERS)

    async def websocket(self, websocket: WebSocket, job_id: str) -> None:
        """Follow the log of a job over a WebSocket."""
        accepted = False
        try:
            await self._require(websocket)
            tail = _tail_of(websocket)
            async with self._visible(websocket, job_id) as feed:
                _check_offset(feed, tail)
                accepted = True
                await websocket.accept()
                await _send(websocket, feed, tail)
        except WebSocketDisconnect:
            return  # whoever watched has left
        except AgentrayError as error:
            if not accepted:
                await deny(websocket, from_error(error))
                return
            # The end is missing: who watched comes back with its offset, and is told what is wrong.
            extra = {"action": "log_cut", "job": job_id}
            logger.warning("the log of %s is cut: %s", job_id, error, extra=extra)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it may be closed already
                await websocket.close(_TRY_AGAIN)

    @contextlib.asynccontextmanager
    async def _visible(self, connection: Any, job_id: str) -> AsyncGenerator[Feed]:
        """Have the feed of a job that the caller may see."""
        if "\0" in job_id:
            raise UnknownJob(job_id)
        async with self._hub.watching(job_id) as feed:
            if not caller(connection).sees(feed.owner):
                raise UnknownJob(job_id)
            yield feed


def _tail_of(websocket: WebSocket) -> Tail:
    try:
        return TailQuery.model_validate(dict(websocket.query_params)).as_tail(Form.MESSAGES)
    except ValidationError as error:
        raise from_validation(error.errors(include_input=False), "query") from error


def _check_offset(feed: Feed, tail: Tail) -> None:
    if feed.job.status.ended and tail.lines is None and tail.offset > feed.size:
        told = f"the log ends at byte {feed.size}"
        raise invalid("offset", "query", told)


async def _send(websocket: WebSocket, feed: Feed, tail: Tail) -> None:
    """Send a tail, and notice when nobody watches any more."""
    sending = asyncio.current_task()
    left = False

    async def listen() -> None:
        nonlocal left
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (await websocket.receive())["type"] != "websocket.disconnect":
                continue  # nothing that is sent to us means anything
        left = True
        if sending is not None:
            sending.cancel()

    listening = asyncio.create_task(listen(), name="listen to a tail")
    try:
        frames = follow(feed, tail)
        async for told in frames:
            for frame in told:
                await websocket.send_text(frame)
        await websocket.close()
    except asyncio.CancelledError:
        if not left:
            raise
        if sending is not None:
            sending.uncancel()
    finally:
        listening.cancel()


async def _closing(
    stack: contextlib.AsyncExitStack, chunks: AsyncIterator[bytes]
) -> AsyncGenerator[bytes]:
    """Yield chunks; leave the feed when that ends, however it does."""
    async with stack:
        try:
            async for chunk in chunks:
                yield chunk
        except (AgentrayError, LogGone) as error:
            # The status is sent. Without its end the stream counts as cut, and is asked for again.
            logger.warning("a log is cut: %s", error, extra={"action": "log_cut"})
            raise


async def _encoded(parts: AsyncIterator[list[str]], end: str) -> AsyncGenerator[bytes]:
    async for told in parts:
        if told:
            yield "".join(f"{frame}{end}" for frame in told).encode()


async def _as_json(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield bytes as one JSON string, a part at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    yield b'"'
    async for chunk in chunks:
        yield encode_basestring(decoder.decode(chunk))[1:-1].encode()
    yield encode_basestring(decoder.decode(b"", final=True))[1:-1].encode() + b'"'
