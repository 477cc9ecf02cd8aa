"""The gateway as an ASGI app: parts put together, and what holds for every request.

Each router under `/v1` asks for a key; a test walks the document to see that none forgot. There
are no CORS headers unless a setting names origins: a web page of another one cannot use the API
from a browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentray import telemetry
from agentray.config import Settings
from agentray.errors import AgentrayError
from agentray.gateway.admission import Admissions
from agentray.gateway.async_jobs import AsyncJobs
from agentray.gateway.auth import KeyRing
from agentray.gateway.capacity import Capacity
from agentray.gateway.cluster import ClusterRoutes
from agentray.gateway.fronts import FrontDesk
from agentray.gateway.health import HealthChecks
from agentray.gateway.job_logs import JobLogs
from agentray.gateway.jobs import Jobs
from agentray.gateway.keys import ApiKeys
from agentray.gateway.letters import DeadLetters
from agentray.gateway.openai import OpenAi
from agentray.gateway.openapi import TAGS, GatewayApp
from agentray.gateway.operations import Operations
from agentray.gateway.other_errors import OtherErrors
from agentray.gateway.prefix import Prefix
from agentray.gateway.problems import (
    MISDIRECTED,
    HttpProblem,
    internal,
    on_error,
    on_invalid_request,
    on_unroutable,
)
from agentray.gateway.prompts import Prompts
from agentray.gateway.run_actions import RunActions, RunEnds
from agentray.gateway.runs import RunReader, Runs
from agentray.gateway.schedules import Schedules
from agentray.gateway.services import Services
from agentray.gateway.sessions import Sessions
from agentray.gateway.slashes import BothForms
from agentray.gateway.sockets import refuse
from agentray.gateway.streaming import RunStreams
from agentray.gateway.synapse import SynapseAgents
from agentray.gateway.tracing import HttpSpans
from agentray.gateway.webhook_sender import WebhookSender
from agentray.gateway.webhooks import PromptWebhooks, Webhooks

_API_VERSION = "1"
_CORS_HEADERS = [
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID"),
    *("SYNAPSE-Tenant", "SYNAPSE-User", "traceparent"),
]
_CORS_EXPOSED = ["ETag", "Link", "Location", "Retry-After", "x-request-id"]
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own: each request would be a span twice, since it is one of `HttpSpans`."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def build_app(services: Services) -> FastAPI:
    """Put the gateway together.

    Args:
        services: what it stands on; open as long as the app serves, closed by the caller after.

    Returns:
        An app whose lifespan ends what the gateway itself has under way.
    """
    keys = KeyRing(services.store)
    admissions = Admissions(
        services.store,
        services.dispatcher,
        max_under_way=services.settings.gateway_runs,
        max_per_owner=services.settings.gateway_runs_per_key,
    )
    reader = RunReader(services)
    streams = RunStreams(services.store, services.dispatcher)
    ends = RunEnds(services)
    letters = DeadLetters(services, keys)
    sessions = Sessions(services, keys)
    sender = WebhookSender(
        services.store,
        allowed=services.settings.webhook_networks or (),
        attempts=services.settings.webhook_attempts,
    )
    hooks = PromptWebhooks(services, sender)
    desk = FrontDesk(services, admissions, reader, streams, ends, sessions.book)

    logs = None if services.cluster is None else JobLogs(services, services.cluster, keys)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        sender.start()
        yield
        await sender.close()
        await admissions.close()
        await ends.close()
        await letters.close()
        await sessions.book.close()
        if logs is not None:
            await logs.close()

    app = GatewayApp(
        title="agentray",
        summary="Prompt agents on a Ray cluster and follow their runs.",
        version=_API_VERSION,
        openapi_tags=TAGS,
        servers=_servers(services.settings.root_path),
        # The usual pages for browsing load scripts from elsewhere into this origin.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
        lifespan=lifespan,
        middleware=[
            Middleware(OtherErrors),
            Middleware(Guard, hosts=allowed_hosts(services)),
            *_around(services.settings),
            Middleware(BothForms),
            Middleware(
                Capacity,
                limit=services.settings.gateway_requests,
                streams=services.settings.gateway_streams,
            ),
            *_tracing(),
        ],
        exception_handlers={
            AgentrayError: on_error,
            RequestValidationError: on_invalid_request,
            404: on_unroutable,
            405: on_unroutable,
        },
    )
    Prompts(services, keys, admissions, reader, streams, sessions.book, hooks).add_to(app)
    app.include_router(Runs(services, keys, reader, streams).router)
    app.include_router(RunActions(services, keys, reader, ends).router)
    app.include_router(letters.router)
    app.include_router(sessions.router)
    app.include_router(Schedules(services, keys, sessions.book, hooks).router)
    app.include_router(ApiKeys(services, keys).router)
    app.include_router(AsyncJobs(desk, keys).router)
    app.include_router(OpenAi(desk, keys).router)
    app.include_router(Webhooks(services, keys, sender).router)
    app.include_router(SynapseAgents(desk, keys).router)
    if services.cluster is not None and logs is not None:
        app.include_router(logs.router)
        app.include_router(Jobs(services, services.cluster, keys).router)
        app.include_router(ClusterRoutes(services, services.cluster, keys).router)
    for part in (Operations(services, keys), HealthChecks(services)):
        app.include_router(part.router)
    return app


def _servers(root_path: str | None) -> list[dict[str, str]] | None:
    """Return where the gateway is, as its document says it."""
    return None if root_path is None else [{"url": root_path}]


def _around(settings: Settings) -> list[Middleware]:
    """Return what settings put around the gateway: other origins, a path prefix."""
    around: list[Middleware] = []
    if settings.cors_origins:
        around.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=_CORS_HEADERS,
                expose_headers=_CORS_EXPOSED,
                max_age=600,
            )
        )
    if settings.root_path is not None:
        around.append(Middleware(Prefix, prefix=settings.root_path))
    return around


def _tracing() -> list[Middleware]:
    spans = telemetry.active()
    return [] if spans is None else [Middleware(HttpSpans, telemetry=spans)]


def allowed_hosts(services: Services) -> AbstractSet[str] | None:
    """Return the host names by which the gateway may be asked for; None: any.

    A gateway on a loopback address is for this machine. A web page that points its own name to
    127.0.0.1 (DNS rebinding) would otherwise make a visitor's browser ask it.
    """
    host = services.settings.host
    if not _is_loopback(host):
        return None
    also = {*services.allowed_hosts, *(services.settings.allowed_hosts or ())}
    return _LOOPBACK_NAMES | {host} | {name.lower() for name in also}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


class Guard:
    """Outermost: refuses requests for foreign hosts, and lets no exception show internals."""

    def __init__(self, app: ASGIApp, hosts: AbstractSet[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if self._hosts is not None and (name := _host(scope)) not in self._hosts:
            detail = f"This gateway is not {name[:80]!r}: ask for localhost."
            await refuse(scope, receive, send, HttpProblem(MISDIRECTED, detail))
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:  # while its body was read: nobody is left to answer
            return
        except Exception as error:
            problem = internal(error)
            if started:
                raise  # too late for another answer: the server breaks the connection
            await problem.response()(scope, receive, send)


def _host(scope: Scope) -> str:
    """Return the name in the Host header without its port, in lower case."""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1").lower()
            return host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]
    return ""
