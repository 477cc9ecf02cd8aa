"""Spans of HTTP requests, where OpenTelemetry is configured.

Named and described by its conventions for HTTP servers:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentray.ids import check_traceparent
from agentray.telemetry import Span, Telemetry

_PROBES = frozenset({"/healthz", "/readyz"})
"""Asked every few seconds, by machines."""


class HttpSpans:
    """Lets each request be a span, a child of the one that its caller names."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        span = self._begin(scope)
        span.attach()
        error: BaseException | None = None

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note_status(span, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException as raised:
            error = raised
            raise
        finally:
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.set("http.route", route)
                span.rename(f"{scope['method']} {route}")
            span.end(error)

    def _begin(self, scope: Scope) -> Span:
        about = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        return self._telemetry.begin(
            scope["method"], "SERVER", about, parent=check_traceparent(_header(scope))
        )


def _note_status(span: Span, status: int) -> None:
    span.set("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status), "")


def _header(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return value.decode("latin-1")
    return None
