"""Spans and metrics of real processes: parents across hosts, and what Ray exports."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any, cast

import aiohttp
import pytest
import ray

from agentray import (
    Agent,
    AgentOptions,
    App,
    ManagerClient,
    Pool,
    Prompt,
    Run,
    RunStatus,
    action,
    on,
)
from tests.support.cluster import Cluster, Done, run_program
from tests.support.collector import Collector, Received, collecting
from tests.support.eventually import eventually_async
from tests.support.helpers import Parrot

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]

_GIVEN = "00-{:032x}-b7ad6b7169203331-01"


class Near(Agent):
    """Asks an agent in another process."""

    options = AgentOptions(pool="traced-near")

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> str | None:
        return await self.handle(Far, prompt.text).answer()


class Far(Agent):
    """Answers with the trace that it belongs to."""

    options = AgentOptions(pool="traced-far")

    @action
    async def answer(self) -> str | None:
        return self.context.traceparent


@pytest.fixture(scope="module")
def collector() -> Generator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
async def traced(manager: ManagerClient, collector: Collector) -> AsyncGenerator[ManagerClient]:
    """An app in two processes that send their spans to the collector."""
    env = {"env_vars": collector.variables}
    pools = [Pool(name, hosts=1, runtime_env=env) for name in ("traced-near", "traced-far")]
    await manager.deploy(App("traced", [Near, Far], pools=pools), pending_timeout=120)
    yield manager
    await manager.stop("traced")
    for row in await manager.pools():
        if row["name"] in {pool.name for pool in pools}:
            await manager.remove_pool(row["name"])


def _drive(cluster: Cluster, script: str, collector: Collector) -> Done:
    """Run a driver that sends its spans to the collector."""
    return run_program(sys.executable, "-c", script, env={**cluster.env, **collector.variables})


async def arrived(collector: Collector, trace_id: str, *names: str) -> dict[str, Received]:
    async def there() -> dict[str, Received]:
        found = collector.of_trace(trace_id)
        return found if found.keys() >= set(names) else {}

    return await eventually_async(there, timeout_s=60)


async def test_parents_are_right_across_processes(traced: ManagerClient, collector: Collector):
    run = await traced.prompt("a", agent=Near)
    assert run.status is RunStatus.SUCCEEDED, run.error
    assert isinstance(run.result, str)

    found = await arrived(collector, run.result[3:35], "run near", "process near", "process far")

    whole, near, far = (found[name] for name in ("run near", "process near", "process far"))
    assert (whole.parent, near.parent, far.parent) == ("", whole.span_id, near.span_id)
    assert run.result[36:52] == far.span_id
    assert whole.process == near.process != far.process
    assert whole.attributes["agentray.run.id"] == run.id
    assert far.attributes["messaging.system"] == "agentray"
    assert far.attributes["messaging.destination.name"] == "far"
    # The kept trace knows them by the same ids.
    kept = await traced.trace(run.id)
    assert kept is not None
    assert kept.summary.trace_id == whole.trace_id
    assert [span.id for span in kept.spans] == [near.span_id, far.span_id]
    assert {span.host for span in kept.spans} == {near.process, far.process}


async def test_a_traceparent_over_http_is_continued(
    cluster: Cluster, traced: ManagerClient, collector: Collector
):
    del traced
    given = _GIVEN.format(0xABCDEF0123456789ABCDEF0123456789)
    headers = {"authorization": f"Bearer {cluster.key}", "traceparent": given}
    body = {"prompt": "b", "agent": "near", "wait_s": 60}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{cluster.url}/v1/prompts", json=body) as answer,
    ):
        run = Run.model_validate(await answer.json())
    assert run.status is RunStatus.SUCCEEDED
    assert isinstance(run.result, str)
    assert run.result[3:35] == given[3:35]
    found = await arrived(collector, given[3:35], "run near", "process far")
    assert found["run near"].parent == given[36:52]


async def test_a_drivers_prompt_and_the_work_are_one_trace(
    cluster: Cluster, traced: ManagerClient, collector: Collector
):
    del traced
    script = (
        "import agentray\n"
        "async def main():\n"
        "    async with agentray.connect() as manager:\n"
        "        run = await manager.prompt('c', agent='near')\n"
        "        print(run.result)\n"
        "agentray.run(main())\n"
    )
    done = await asyncio.to_thread(_drive, cluster, script, collector)
    assert done.exit_code == 0, done
    trace_id = done.stdout.strip()[3:35]
    found = await arrived(collector, trace_id, "send near", "run near", "process far")
    sent, whole = found["send near"], found["run near"]
    assert (sent.parent, whole.parent) == ("", sent.span_id)
    assert sent.process.startswith("driver-")


async def test_ray_exports_what_hosts_count(manager: ManagerClient):
    for _ in range(3):
        await manager.handle(Parrot, "counted").echo("x")
    # Where Ray exports metrics, of each of its nodes.
    nodes = [node for node in cast("list[dict[str, Any]]", ray.nodes()) if node["Alive"]]
    urls = [f"http://127.0.0.1:{node['MetricsExportPort']}/metrics" for node in nodes]

    async def exported() -> dict[str, float]:
        async with aiohttp.ClientSession() as session, session.get(urls[0]) as answer:
            text = await answer.text()
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith("ray_agentray") and 'agent_type="parrot"' in line:
                name, _, value = line.rpartition(" ")
                metric = name.partition("{")[0]
                if 'kind="' not in name or 'kind="call"' in name:
                    found[metric] = max(found.get(metric, 0), float(value))
        wanted = {
            "ray_agentray_messages_total",
            "ray_agentray_handler_seconds_bucket_total",
            "ray_agentray_activations_total",
            "ray_agentray_agents_in_memory",
        }
        # Other tests call parrots, too: these calls may be told one interval later.
        all_told = min(found.get(name, 0) for name in wanted) >= 1 and all(
            found[name] >= 3
            for name in (
                "ray_agentray_messages_total",
                "ray_agentray_handler_seconds_bucket_total",
            )
        )
        return found if all_told else {}

    found = await eventually_async(exported, timeout_s=90, interval_s=1.0)
    assert found["ray_agentray_agents_in_memory"] >= 1
