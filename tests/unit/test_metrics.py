"""What hosts count, as a metrics system gets it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentray import Agent, App, Event, ManagerClient, Prompt, RestartPolicy, action, on, timer
from agentray.agent import AgentOptions
from agentray.runtime.metrics import BUCKETS_S, METRICS
from agentray.runtime.ports import Reading
from agentray.testing import LocalRuntime, RecordedMetrics
from tests.support.eventually import eventually_async

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "metrics.md"


class Wanted(Event):
    text: str


class Unwanted(Event):
    text: str


class Worker(Agent):
    """Does what it is asked."""

    gate: asyncio.Event = asyncio.Event()

    @action
    async def work(self, seconds: float = 0.0) -> None:
        await asyncio.sleep(seconds)

    @action
    async def wait(self) -> None:
        await self.gate.wait()

    @action
    async def fail(self) -> None:
        raise ValueError("no")

    @action
    async def parts(self) -> AsyncIterator[int]:
        yield 1

    @on(Wanted, key="field:text")
    async def take(self, wanted: Wanted) -> None:
        assert wanted.text

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> Any:
        match prompt.text:
            case "publish":
                return [Wanted(text="a"), Wanted(text="b"), Unwanted(text="c")]
            case "fail":
                raise ValueError("no")
            case _:
                return "done"


class Restless(Agent):
    """Its timer fails once."""

    options = AgentOptions(restart=RestartPolicy(backoff_s=0.001))
    ticks = 0

    @timer(0.001)
    async def tick(self) -> None:
        Restless.ticks += 1
        if Restless.ticks == 1:
            raise ValueError("restless")

    @action
    async def wake(self) -> None:
        pass


class Broken(Agent):
    """Cannot be started."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=1, backoff_s=0.001))

    async def on_start(self) -> None:
        raise ValueError("broken")

    @action
    async def wake(self) -> None:
        pass


@pytest.fixture
def recorded() -> RecordedMetrics:
    return RecordedMetrics()


@pytest.fixture
async def manager(recorded: RecordedMetrics) -> AsyncIterator[ManagerClient]:
    Worker.gate = asyncio.Event()
    Restless.ticks = 0
    async with LocalRuntime(metrics=recorded, metrics_interval_s=0.01) as manager:
        await manager.deploy(App("work", [Worker, Restless, Broken]))
        yield manager


async def until(recorded: RecordedMetrics, value: float, name: str, **tags: str) -> None:
    """Wait until a metric has come to a value."""

    async def there() -> bool:
        return recorded.value(name, **tags) == value

    try:
        await eventually_async(there, interval_s=0.01)
    except AssertionError as error:
        raise AssertionError(f"{name} is {recorded.value(name, **tags)}, not {value}") from error


async def test_messages_are_counted_by_type_and_kind(
    manager: ManagerClient, recorded: RecordedMetrics
) -> None:
    worker = manager.handle(Worker, "w")
    for _ in range(3):
        await worker.work()
    await worker.work.tell()
    assert [part async for part in worker.parts()] == [1]
    with pytest.raises(ValueError, match="no"):
        await worker.fail()
    await manager.prompt("publish", agent=Worker)
    for kind, count in (("call", 4), ("tell", 1), ("stream", 1), ("event", 3), ("own", 0)):
        await until(recorded, count, "agentray_messages", agent_type="worker", kind=kind)
    await until(recorded, 1, "agentray_message_errors", agent_type="worker")
    assert len(recorded.tags("agentray_messages", "host")) in {1, 2}


async def test_latencies_are_a_histogram(manager: ManagerClient, recorded: RecordedMetrics) -> None:
    worker = manager.handle(Worker, "w")
    await worker.work(0.03)
    for _ in range(4):
        await worker.work()
    name = "agentray_handler_seconds"
    await until(recorded, 5, f"{name}_count", agent_type="worker")
    assert recorded.value(f"{name}_sum", agent_type="worker") >= 0.03
    rising = [recorded.value(f"{name}_bucket", le=str(le)) for le in (*BUCKETS_S, "+Inf")]
    assert rising == sorted(rising)
    assert rising[-1] == 5
    assert recorded.value(f"{name}_bucket", le="0.025") <= 4


async def test_mailboxes_and_memory_are_what_they_are_now(
    manager: ManagerClient, recorded: RecordedMetrics
) -> None:
    calls = [asyncio.create_task(manager.handle(Worker, "busy").wait()) for _ in range(4)]
    await manager.handle(Worker, "other").work()
    await until(recorded, 3, "agentray_mailbox_depth", agent_type="worker")
    await until(recorded, 2, "agentray_agents_in_memory", agent_type="worker")
    Worker.gate.set()
    await asyncio.gather(*calls)
    await until(recorded, 0, "agentray_mailbox_depth", agent_type="worker")
    await until(recorded, 2, "agentray_activations", agent_type="worker")


async def test_runs_and_dead_letters(manager: ManagerClient, recorded: RecordedMetrics) -> None:
    await manager.prompt("publish", agent=Worker)
    await manager.prompt("fail", agent=Worker)
    await manager.prompt("x", agent=Worker)
    await until(recorded, 3, "agentray_runs_begun")
    await until(recorded, 2, "agentray_runs_ended", status="succeeded")
    await until(recorded, 1, "agentray_runs_ended", status="failed")
    await until(
        recorded, 1, "agentray_dead_letters", reason="no_subscriber", what=Unwanted.event_type
    )
    await until(recorded, 0, "agentray_runs_under_way")


async def test_restarts_and_starts_that_fail(
    manager: ManagerClient, recorded: RecordedMetrics
) -> None:
    await manager.handle(Restless, "r").wake()
    await until(recorded, 1, "agentray_restarts", agent_type="restless")

    async def ticks() -> bool:
        return recorded.value("agentray_messages", agent_type="restless", kind="own") >= 2

    await eventually_async(ticks)
    with pytest.raises(Exception, match="broken"):
        await manager.handle(Broken, "b").wake()
    await until(recorded, 2, "agentray_start_failures", agent_type="broken")


async def test_what_was_counted_last_is_handed_over_when_a_host_stops(
    recorded: RecordedMetrics,
) -> None:
    async with LocalRuntime(metrics=recorded, metrics_interval_s=3600) as manager:
        await manager.deploy(App("work", [Worker]))
        await manager.handle(Worker, "w").work()
        assert recorded.reports == 0
    assert recorded.value("agentray_messages", agent_type="worker", kind="call") == 1


async def test_without_a_place_for_them_nothing_is_counted() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("work", [Worker]))
        await manager.handle(Worker, "w").work()
        hosts = [runtime.network.hosts[host_id]._running for host_id in runtime.hosts]  # pyright: ignore[reportPrivateUsage]
        assert [(host.meters, host.spans) for host in hosts] == [(None, None)] * 2


async def test_the_twin_adds_counters_up_and_keeps_the_last_of_a_gauge() -> None:
    recorded = RecordedMetrics()
    for depth in (4, 2):
        await recorded.report(
            [
                Reading("agentray_messages", {"host": "h1", "kind": "call"}, 3),
                Reading("agentray_mailbox_depth", {"host": "h1"}, depth),
            ]
        )
    assert recorded.value("agentray_messages") == 6
    assert recorded.value("agentray_mailbox_depth", host="h1") == 2
    assert recorded.value("agentray_mailbox_depth", host="h2") == 0
    assert recorded.tags("agentray_messages", "kind") == {"call"}


def test_the_guides_table_is_the_list_in_the_code() -> None:
    rows = re.findall(
        r"^\| `(agentray_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    told = {
        name: (kind, tags.replace("`", "").split(", "), help_) for name, kind, tags, help_ in rows
    }
    assert told == {
        metric.name: (metric.kind, list(metric.tags), metric.help.rstrip("."))
        for metric in METRICS.values()
    }
    assert ", ".join(f"{bound:g}" for bound in BUCKETS_S) in PAGE.read_text(encoding="utf-8")
