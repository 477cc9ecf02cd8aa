"""What agentray's spans are called: OpenTelemetry's conventions for messaging.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ (in development; as of
version 1.37): an agent type is a destination, a handled message is a `process` span, and what comes
from outside of agents begins with a `send` span. Between agents the `process` span itself is the
parent: a `send` span would double the number of spans, and say nothing new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from agentray import telemetry
from agentray.context import Context
from agentray.ids import AgentId
from agentray.protocol.envelope import Envelope, Kind, Large
from agentray.protocol.runs import Run
from agentray.runtime.message import Origin, Request
from agentray.runtime.streams import StreamMessage
from agentray.telemetry import Span, Telemetry

Value = str | int | float | bool

SYSTEM = "agentray"


def begin_process(spans: Telemetry, envelope: Envelope, context: Context, host: str) -> Span:
    """Begin the span of a message that is handled, and let it be the parent of what that causes."""
    payload = envelope.payload
    about = _about("process", envelope.target, envelope.name, envelope.correlation_id)
    about["messaging.client.id"] = host
    if isinstance(payload, bytes | Large):
        about["messaging.message.body.size"] = len(payload)
    if envelope.sender is not None:
        about["agentray.sender"] = str(envelope.sender)
    name = f"process {envelope.type}"
    span = spans.begin(name, "CONSUMER", about, parent=envelope.trace_context)
    context.join_trace(span.span_id, span.traceparent)
    span.attach()
    return span


def begin_send(spans: Telemetry, target: AgentId, name: str, correlation: str | None) -> Span:
    """Begin the span of a message from outside of agents; it ends with the answer."""
    about = _about("send", target, name, correlation)
    return spans.begin(f"send {target.type}", "PRODUCER", about, inherits=True)


_TRACED = frozenset({int(Kind.CALL), int(Kind.TELL)})


def trace_request(spans: Telemetry, message: Request) -> None:
    """Let a request from outside of agents begin with a span, which ends with its answer."""
    if message.kind not in _TRACED:
        return
    span = begin_send(spans, message.target, message.name, None)
    message.origin = Origin(trace_context=span.traceparent)

    def end(future: asyncio.Future[Any]) -> None:
        span.end(None if future.cancelled() else future.exception())

    message.future.add_done_callback(end)


def trace_stream(spans: Telemetry, message: StreamMessage) -> None:
    """Let a stream from outside of agents begin with a span: of its asking, not of its reading."""
    span = begin_send(spans, message.target, message.name, None)
    message.origin = Origin(trace_context=span.traceparent)
    span.end()


@contextmanager
def sending(target: AgentId, name: str, correlation: str) -> Generator[str | None]:
    """Let what is sent within be a span, where OpenTelemetry is configured.

    Returns:
        The W3C trace context for what is sent; None: nothing is traced here.
    """
    spans = telemetry.active()
    if spans is None:
        yield None
        return
    span = begin_send(spans, target, name, correlation)
    try:
        yield span.traceparent
    except BaseException as error:
        span.end(error)
        raise
    span.end()


def begin_run(spans: Telemetry, run: Run, agent: AgentId, parent: str | None) -> Span:
    """Begin the span of an attempt at a run."""
    about: dict[str, Value] = {
        "agentray.run.id": run.id,
        "agentray.run.attempt": run.attempt,
        "agentray.agent.type": agent.type,
        "agentray.agent.key": agent.key,
    }
    return spans.begin(f"run {agent.type}", "INTERNAL", about, parent=parent)


def end_run(span: Span, run: Run | None) -> None:
    """End the span of a run; None: this host has lost it, another one goes on."""
    if run is None:
        span.fail("lost", "another host goes on with it")
    else:
        span.set("agentray.run.status", run.status.value)
        if run.error is not None:
            span.fail(run.error.type, run.error.message)
    span.end()


def _about(operation: str, target: AgentId, name: str, correlation: str | None) -> dict[str, Value]:
    about: dict[str, Value] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": target.type,
        "agentray.agent.key": target.key,
        "agentray.message.name": name,  # the action, or the event's type
    }
    if correlation is not None:
        about["messaging.message.conversation_id"] = correlation
    return about
