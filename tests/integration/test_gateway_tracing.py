"""The gateway and traces: what comes in with a request is continued, and requests are spans."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from agentray import telemetry
from agentray.telemetry import Telemetry
from tests.support.gateway import KEY, BreakableStore, Gateway

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def prompt(gateway: Gateway, **headers: str) -> str | None:
    """Prompt an agent, and return the trace context that its run was admitted with."""
    headers["authorization"] = f"Bearer {KEY}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.url}/v1/prompts", json={"prompt": "Ada"}) as answer,
    ):
        assert answer.status == 200
        stored = await gateway.store.get_run((await answer.json())["id"])
    assert stored is not None
    return stored.input.get("traceparent")


@pytest.mark.parametrize(
    ("header", "continued"),
    [(GIVEN, GIVEN), ("00-nonsense", None), ("", None)],
)
async def test_a_traceparent_is_continued_when_it_is_one(
    gateway: Gateway, header: str, continued: str | None
):
    assert await prompt(gateway, traceparent=header) == continued


async def test_without_one_the_run_begins_a_trace_itself(gateway: Gateway):
    assert await prompt(gateway) is None


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_active", Telemetry(provider))
    # As where the SDK is configured for the whole process: nobody else may make spans of it.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def traced(exported: InMemorySpanExporter, tmp_path: Path) -> AsyncGenerator[Gateway]:
    del exported  # first: the gateway looks for it when it is built
    gateway = Gateway(BreakableStore(), tmp_path)
    await gateway.prepare()
    async with gateway.serving():
        yield gateway


def one(exported: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exported.get_finished_spans()
    return span


async def test_a_request_is_a_span_between_its_caller_and_the_run(
    traced: Gateway, exported: InMemorySpanExporter
):
    continued = await prompt(traced, traceparent=GIVEN)
    span = one(exported)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == GIVEN[3:35]
    assert f"{span.parent.span_id:016x}" == GIVEN[36:52]
    assert continued is not None
    assert continued[36:52] == f"{span.context.span_id:016x}"
    assert (span.name, span.kind) == ("POST /v1/prompts", SpanKind.SERVER)
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/prompts",
        "http.response.status_code": 200,
        "url.path": "/v1/prompts",
        "url.scheme": "http",
    }


async def test_probes_are_no_spans_and_what_goes_wrong_is_told(
    traced: Gateway, exported: InMemorySpanExporter
):
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz", "/v1/runs/run_1", "/nowhere"):
            async with session.get(f"{traced.url}{path}"):
                pass
    run, nowhere = exported.get_finished_spans()
    assert run.name == "GET /v1/runs/{run_id}"
    assert dict(run.attributes or {})["http.response.status_code"] == 401
    assert run.parent is None
    assert (nowhere.name, dict(nowhere.attributes or {})["http.response.status_code"]) == (
        "GET",
        404,
    )
