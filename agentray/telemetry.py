"""OpenTelemetry: spans of this process, where its SDK is configured; nothing where it is not.

The standard variables decide (https://opentelemetry.io/docs/specs/otel/configuration/): with
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER set, `start` makes a provider as they say, and
one that the program has set by itself is used as it is. Otherwise `active()` is None, and nothing
of OpenTelemetry is imported. What a span is called is decided where it begins.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import Token
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
Attributes = Mapping[str, str | int | float | bool]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_MS = 2000


class Span:
    """A span that has begun.

    Attributes:
        traceparent: its W3C trace context, for what it causes.
        span_id: 16 hex digits.
    """

    __slots__ = ("_attached", "_span", "span_id", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._attached: Token[Context] | None = None
        told = span.get_span_context()
        self.span_id = f"{told.span_id:016x}"
        self.traceparent = f"00-{told.trace_id:032x}-{self.span_id}-{int(told.trace_flags):02x}"

    def attach(self) -> None:
        """Let spans that begin from here on, in this task, be its children, until `end`."""
        from opentelemetry import context, trace

        self._attached = context.attach(trace.set_span_in_context(self._span))

    def set(self, name: str, value: str | float | bool) -> None:
        """Add what has become known of it."""
        self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        """Call it by what has become known of it."""
        self._span.update_name(name)

    def fail(self, kind: str, message: str) -> None:
        """Note an error by its class and text."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR, message)

    def end(self, error: BaseException | None = None) -> None:
        """End it, with the error that it came to."""
        if self._attached is not None:
            from opentelemetry import context

            attached, self._attached = self._attached, None
            context.detach(attached)
        if error is not None:
            self._span.record_exception(error)
            self.fail(type(error).__qualname__, str(error))
        self._span.end()


class Telemetry:
    """Makes spans.

    Attributes:
        provider: the SDK's, which decides what becomes of them.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        from opentelemetry import trace

        self.provider = provider
        self._tracer = provider.get_tracer("agentray", version("agentray"))
        self._kinds = {kind.name: kind for kind in trace.SpanKind}

    def begin(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        parent: str | None = None,
        inherits: bool = False,
    ) -> Span:
        """Begin a span.

        Args:
            name: of the operation, of few different ones.
            kind: of the span.
            attributes: what is known of it.
            parent: a W3C `traceparent`; None: it has none, and begins a trace.
            inherits: without a `parent`, the span under way in this task is it, if there is one.
        """
        if parent is not None:
            context: Context | None = _remote(parent)
        else:
            context = None if inherits else _nothing()
        kinds = self._kinds
        return Span(self._tracer.start_span(name, context, kinds[kind], dict(attributes)))

    def current(self) -> str | None:
        """Return the W3C trace context of the span under way in this task, if there is one."""
        from opentelemetry import trace

        span = trace.get_current_span()
        return Span(span).traceparent if span.get_span_context().is_valid else None

    def flush(self) -> None:
        """Send what waits to be sent; takes a moment, so not on an event loop."""
        cast("TracerProvider", self.provider).force_flush(_FLUSH_MS)


_active: Telemetry | None = None


def active() -> Telemetry | None:
    """Return what makes the spans of this process; None: nothing does."""
    return _active


def current_traceparent() -> str | None:
    """Return the W3C trace context of the span under way in this task; None: there is none."""
    return None if _active is None else _active.current()


def start(instance: str) -> Telemetry | None:
    """Let this process make spans, if its environment or its program wants them.

    Args:
        instance: which of agentray's processes this is.
    """
    global _active  # noqa: PLW0603 - a process has one tracer provider
    if _active is None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        given = _given_provider()
        if given is not None:
            _active = Telemetry(given)
        elif (exporter := _wanted_exporter()) is not None:
            _active = _configured(exporter, instance)
    return _active


def flush() -> None:
    """Send what waits to be sent, before the process is ended; not on an event loop."""
    if _active is not None:
        _active.flush()


def _given_provider() -> trace.TracerProvider | None:
    """Return the provider that the program has set, without importing anything for it."""
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if sdk is None:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, sdk.TracerProvider) else None


def _wanted_exporter() -> str | None:
    named = os.environ.get("OTEL_TRACES_EXPORTER", "").partition(",")[0].strip()
    if named:
        return None if named == "none" else named
    return "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else None


def _configured(exporter: str, instance: str) -> Telemetry | None:
    """Make the provider that the environment asks for; a span lost must not cost more than that."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        made = _exporter(exporter)
    except (ImportError, LookupError) as error:
        logger.warning(
            "OpenTelemetry is asked for, and not there (%s): pip install 'agentray[otel]'",
            error,
            extra={"action": "telemetry_missing"},
        )
        return None
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    about = {"service.instance.id": instance} | ({} if named else {"service.name": "agentray"})
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(made))
    trace.set_tracer_provider(provider)  # also for what users and libraries trace
    return Telemetry(provider)


def _exporter(name: str) -> Any:
    """Make an exporter by the name that it registers."""
    if name == "otlp":
        protocol = next((os.environ[p] for p in _PROTOCOLS if os.environ.get(p)), "http/protobuf")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    (found, *_) = entry_points(group="opentelemetry_traces_exporter", name=name) or (None,)
    if found is None:
        raise LookupError(f"no exporter {name!r} is installed")
    return getattr(importlib.import_module(found.module), found.attr)()


def _nothing() -> Context:
    """Return a context without any span."""
    from opentelemetry.context import Context

    return Context()


def _remote(traceparent: str) -> Context:
    """Return the context of a span of another process, or of this one."""
    from opentelemetry import trace

    told = trace.SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(traceparent[53:55], 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(told), _nothing())
