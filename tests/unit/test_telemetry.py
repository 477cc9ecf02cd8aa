"""Spans for OpenTelemetry: of what, with which parents; and nothing where it is not set."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from agentray import (
    Agent,
    App,
    Event,
    ManagerClient,
    Middleware,
    Prompt,
    RunStatus,
    action,
    on,
    telemetry,
)
from agentray.event_run import DurabilityName
from agentray.telemetry import Telemetry
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

_GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Asked(Event):
    text: str


class Desk(Agent):
    """Answers prompts with the help of others."""

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Any:
        match prompt.text:
            case "call":
                return await self.handle(Helper, "h").help("me")
            case "publish":
                return Asked(text="x")
            case "dispatch":
                await (await self.dispatch(Asked(text="x"))).wait()
                return None
            case "own span":
                with trace.get_tracer("user").start_as_current_span("of the user"):
                    return await self.handle(Helper, "h").help("me")
            case _:
                raise ValueError("no")

    @action
    async def ask(self, text: str) -> None:
        self.context.publish(Asked(text=text))


class Helper(Agent):
    """Helps."""

    @action
    async def help(self, text: str) -> str | None:
        del text
        return self.context.traceparent

    @action
    async def ask_another(self) -> str | None:
        return await self.handle(Helper, "other").help("x")

    @action
    async def words(self) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    @action
    async def fail(self) -> None:
        raise KeyError("what")

    @on(Asked, key="field:text")
    async def take(self, asked: Asked) -> None:
        await asyncio.sleep(0 * len(asked.text))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What the spans of this test become, with the SDK configured by the program."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_active", Telemetry(provider))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def manager(exported: InMemorySpanExporter) -> AsyncIterator[ManagerClient]:
    async with LocalRuntime() as manager:
        await manager.deploy(App("desk", [Desk, Helper]))
        exported.clear()
        yield manager


def spans(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans by their names, of which none must be there twice."""
    found = {span.name: span for span in exported.get_finished_spans()}
    assert len(found) == len(exported.get_finished_spans())
    return found


def parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def processed(exported: InMemorySpanExporter, key: str) -> ReadableSpan:
    """The span of the one message that an agent of this key handled."""
    (found,) = [
        span
        for span in exported.get_finished_spans()
        if span.name.startswith("process") and (span.attributes or {})["agentray.agent.key"] == key
    ]
    return found


def traceparent_of(span: ReadableSpan) -> str:
    assert span.context is not None
    flags = int(span.context.trace_flags)
    return f"00-{span.context.trace_id:032x}-{span_id(span)}-{flags:02x}"


def test_the_sdk_is_not_imported_where_it_is_not_configured() -> None:
    code = (
        "import asyncio, sys, agentray\n"
        "from agentray.testing import LocalRuntime\n"
        "async def main():\n"
        "    async with LocalRuntime(): pass\n"
        "asyncio.run(main())\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("variables", "made"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, None),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "agentray"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "shop"}, "shop"),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_RESOURCE_ATTRIBUTES": "service.name=till"},
            "till",
        ),
    ],
)
def test_the_standard_variables_decide(variables: dict[str, str], made: str | None) -> None:
    code = (
        "import sys\n"
        "from agentray import telemetry\n"
        "found = telemetry.start('host_1')\n"
        "print(found and found.provider.resource.attributes['service.name'])\n"
        "if found:\n"
        "    assert found.provider.resource.attributes['service.instance.id'] == 'host_1'\n"
        "    span = found.begin('said', 'INTERNAL', {'a': 1})\n"
        "    span.end()\n"
        "    telemetry.flush()\n"
        "else:\n"
        "    assert not [m for m in sys.modules if m.startswith('opentelemetry')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), **variables},
    )
    assert done.stdout.splitlines()[0] == str(made)
    assert ('"name": "said"' in done.stdout) is (made is not None)


def test_an_exporter_that_is_not_installed_is_told_and_costs_nothing_else() -> None:
    code = "from agentray import telemetry; print(telemetry.start('host_1'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "OTEL_TRACES_EXPORTER": "carrier_pigeon"},
    )
    assert done.stdout == "None\n"
    assert "pip install 'agentray[otel]'" in done.stderr
    assert "carrier_pigeon" in done.stderr


async def test_a_prompt_is_one_trace_with_real_parents(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    run = await manager.prompt("call", agent=Desk)
    found = spans(exported)
    sent, whole = found["send desk"], found["run desk"]
    desk, helper = found["process desk"], found["process helper"]
    assert parent(sent) is None
    assert parent(whole) == span_id(sent)
    assert parent(desk) == span_id(whole)
    assert parent(helper) == span_id(desk)
    assert len({span.context.trace_id for span in found.values() if span.context}) == 1
    assert [s.kind for s in (sent, whole, desk, helper)] == [
        SpanKind.PRODUCER, SpanKind.INTERNAL, SpanKind.CONSUMER, SpanKind.CONSUMER,
    ]  # fmt: skip
    assert run.result == traceparent_of(helper)


@pytest.mark.parametrize("durability", ["run", "step", "none"])
async def test_the_run_of_an_event_is_one_trace_with_real_parents(
    manager: ManagerClient, exported: InMemorySpanExporter, durability: DurabilityName
) -> None:
    run = await manager.dispatch(Asked(text="x"), durability=durability)
    await run.wait()
    found = spans(exported)
    sent, whole = found[f"send {run.root.type}"], found[f"run {run.root.type}"]
    assert parent(sent) is None
    assert parent(whole) == span_id(sent)
    assert parent(found["process helper"]) == span_id(whole)
    assert (whole.attributes or {})["agentray.run.status"] == "succeeded"
    kept = await manager.trace(run.id)
    assert kept is not None
    assert [span.id for span in kept.spans] == [span_id(found["process helper"])]
    assert whole.context is not None
    assert kept.summary.trace_id == f"{whole.context.trace_id:032x}"


async def test_an_agents_dispatch_is_a_child_of_what_it_handles(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    run = await manager.prompt("dispatch", agent=Desk)
    assert run.status is RunStatus.SUCCEEDED
    found = spans(exported)
    assert parent(found["send agentray.root.default"]) == span_id(found["process desk"])
    whole = found["run agentray.root.default"]
    assert parent(whole) == span_id(found["send agentray.root.default"])
    assert parent(found["process helper"]) == span_id(whole)


async def test_what_a_slow_hook_holds_back_has_the_parent_that_published_it(
    exported: InMemorySpanExporter,
) -> None:
    class Slow(Middleware):
        async def on_publish(self, event: Event) -> Event:
            await asyncio.sleep(0.01)
            return event

    async with LocalRuntime() as manager:
        await manager.deploy(App("desk", [Desk, Helper], middleware=[Slow()]))
        exported.clear()
        desk = manager.handle(Desk, "d")
        await asyncio.gather(*(desk.ask(text) for text in "abc"))

        async def all_taken() -> bool:
            done = [span.name for span in exported.get_finished_spans()]
            return done.count("process helper") == 3

        await eventually_async(all_taken)
    asked = {span_id(s) for s in exported.get_finished_spans() if s.name == "process desk"}
    assert len(asked) == 3
    assert {parent(processed(exported, key)) for key in "abc"} == asked


async def test_spans_have_the_attributes_of_the_messaging_conventions(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    run = await manager.prompt("call", agent=Desk)
    found = spans(exported)
    helper = dict(found["process helper"].attributes or {})
    size, host = helper.pop("messaging.message.body.size"), helper.pop("messaging.client.id")
    assert isinstance(size, int)
    assert str(host).startswith("host_")
    assert helper == {
        "messaging.system": "agentray",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "helper",
        "messaging.message.conversation_id": run.id,
        "agentray.agent.key": "h",
        "agentray.message.name": "help",
        "agentray.sender": run.agent,
    }
    whole = dict(found["run desk"].attributes or {})
    assert (whole["agentray.run.id"], whole["agentray.run.status"]) == (run.id, "succeeded")


async def test_the_ids_of_spans_are_those_of_the_kept_trace(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    run = await manager.prompt("publish", agent=Desk)
    kept = await manager.trace(run.id)
    assert kept is not None
    processed = [s for s in exported.get_finished_spans() if s.name.startswith("process")]
    assert {span.id for span in kept.spans} == {span_id(span) for span in processed}
    assert {kept.summary.trace_id} == {f"{s.context.trace_id:032x}" for s in processed if s.context}
    root, child = kept.spans
    assert child.parent == root.id


async def test_a_span_of_the_users_own_is_the_parent_of_what_it_calls(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    await manager.prompt("own span", agent=Desk)
    found = spans(exported)
    assert parent(found["of the user"]) == span_id(found["process desk"])
    assert parent(found["process helper"]) == span_id(found["of the user"])


async def test_calls_and_streams_from_a_driver_begin_with_a_span(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    helper = manager.handle(Helper, "h")
    traceparent = await helper.ask_another()
    sent, *_ = [s for s in exported.get_finished_spans() if s.name == "send helper"]
    first, other = (processed(exported, key) for key in ("h", "other"))
    assert parent(first) == span_id(sent)
    assert parent(other) == span_id(first)
    assert traceparent is not None
    assert traceparent[36:52] == span_id(other)
    exported.clear()
    assert [word async for word in helper.words()] == ["a", "b"]
    found = spans(exported)
    assert parent(found["process helper"]) == span_id(found["send helper"])


async def test_a_drivers_own_span_is_the_parent_of_its_calls(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    with trace.get_tracer("user").start_as_current_span("script"):
        await manager.handle(Helper, "h").help("x")
    found = spans(exported)
    assert parent(found["send helper"]) == span_id(found["script"])


async def test_errors_are_on_the_spans(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    with pytest.raises(KeyError):
        await manager.handle(Helper, "h").fail()
    found = spans(exported)
    for span in (found["send helper"], found["process helper"]):
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {})["error.type"] == "KeyError"
        assert [event.name for event in span.events] == ["exception"]
    exported.clear()
    run = await manager.prompt("what?", agent=Desk)
    assert run.status is RunStatus.FAILED
    whole = spans(exported)["run desk"]
    assert whole.status.status_code is StatusCode.ERROR
    assert dict(whole.attributes or {})["error.type"] == "ValueError"


async def test_what_no_sampler_takes_still_has_its_trace_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_active", Telemetry(provider))
    async with LocalRuntime() as manager:
        await manager.deploy(App("desk", [Desk, Helper]))
        run = await manager.prompt("call", agent=Desk)
        assert isinstance(run.result, str)
        assert int(run.result[-2:], 16) & 1 == 0  # not sampled
        kept = await manager.trace(run.id)
    assert kept is not None
    root, called = kept.spans
    assert called.parent == root.id
    assert run.result[36:52] == called.id
    assert exporter.get_finished_spans() == ()


async def test_a_language_models_answer_is_a_span_of_the_genai_conventions(
    manager: ManagerClient, exported: InMemorySpanExporter
) -> None:
    from pydantic import BaseModel

    from agentray.patterns.llm import load_model

    class Summary(BaseModel):
        text: str

    del manager
    model = await load_model("test", Summary, instructions="Summarise.")
    await model.ask("a secret")
    await model.close()
    chats = [s for s in exported.get_finished_spans() if s.name.startswith("chat")]
    (chat,) = chats
    about = dict(chat.attributes or {})
    assert chat.name == "chat test"
    assert chat.kind is SpanKind.CLIENT
    assert (about["gen_ai.operation.name"], about["gen_ai.request.model"]) == ("chat", "test")
    assert about["gen_ai.provider.name"] == "test"
    assert isinstance(about["gen_ai.usage.input_tokens"], int)
    assert isinstance(about["gen_ai.usage.output_tokens"], int)
    everything = str([dict(s.attributes or {}) for s in exported.get_finished_spans()])
    assert "a secret" not in everything
