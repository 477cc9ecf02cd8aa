"""A collector of OpenTelemetry's spans on loopback: OTLP over HTTP, as the real ones take it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """A span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    process: str  # of agentray's, that made it
    attributes: dict[str, str]


class Collector:
    """What has arrived."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Received] = []

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that sends its spans here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def take(self, body: bytes) -> None:
        """Take a request's body."""
        request: Any = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            process = _texts(resource.resource.attributes)["service.instance.id"]
            for scope in resource.scope_spans:
                self._spans += [
                    Received(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        process,
                        _texts(span.attributes),
                    )
                    for span in scope.spans
                ]

    def of_trace(self, trace_id: str) -> dict[str, Received]:
        """Return the spans of a trace by their names."""
        return {span.name: span for span in self._spans if span.trace_id == trace_id}

    def with_attribute(self, name: str, value: str) -> list[Received]:
        """Return the spans that have an attribute."""
        return [span for span in self._spans if span.attributes.get(name) == value]


def _texts(attributes: Any) -> dict[str, str]:
    return {a.key: a.value.string_value for a in attributes}


@contextmanager
def collecting() -> Generator[Collector]:
    """Collect on a free port of loopback, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            collector.take(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
