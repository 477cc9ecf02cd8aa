"""Middleware on a real cluster: it lives in the hosts, and holds for whoever sends."""

from __future__ import annotations

import asyncio

import pytest

from agentray import (
    ConfigurationError,
    DeadlineExceeded,
    Handle,
    ManagerClient,
    MessageDropped,
    RunStatus,
)
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async
from tests.support.guarded import Refused, Scribe, app

pytestmark = [pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
async def guarded(manager: ManagerClient) -> ManagerClient:
    await manager.deploy(app)
    return manager


async def scribes_of_both_hosts(manager: ManagerClient) -> dict[int, Handle[Scribe]]:
    hosts = await until_complete(manager)
    scribes = [manager.handle(Scribe, f"scribe-{n}") for n in range(20)]
    processes = await asyncio.gather(*(scribe.process() for scribe in scribes))
    found = dict(zip(processes, scribes, strict=True))
    assert set(found) == set(hosts.values())
    return found


async def test_replies_are_changed_in_the_host_of_the_agent(guarded: ManagerClient) -> None:
    for process, scribe in (await scribes_of_both_hosts(guarded)).items():
        assert await scribe.copy("a") == f"a by {process}"
        assert [item async for item in scribe.letters("ab")] == [
            f"a by {process}",
            f"b by {process}",
        ]


async def test_what_the_guard_does_not_let_pass_is_a_typed_error_at_the_driver(
    guarded: ManagerClient,
) -> None:
    for scribe in (await scribes_of_both_hosts(guarded)).values():
        with pytest.raises(MessageDropped) as dropped:
            await scribe.copy("drop")
        assert (dropped.value.agent, dropped.value.middleware) == (str(scribe.id), "Guard")
        with pytest.raises(Refused) as refused:
            await scribe.copy("refuse")
        assert refused.value.what == "a text"
        with pytest.raises(ConfigurationError, match=r"Guard\.on_send returned NoneType"):
            await scribe.copy("forget")
        with pytest.raises(DeadlineExceeded):
            await scribe.with_timeout(0.5).copy("hang")
        assert (await scribe.copy("next")).startswith("next by ")


async def test_a_dropped_event_is_counted_and_a_refused_one_fails_the_run(
    guarded: ManagerClient, cluster: Cluster
) -> None:
    async with cluster.client() as client:
        run = await client.prompt("one drop two end", "scribe", wait_s=60)
    assert run.status == RunStatus.SUCCEEDED
    assert run.result is not None
    assert run.result["text"].startswith("end in ")

    async def counted() -> bool:
        return any(host.get("dropped") for host in (await guarded.status())["hosts"])

    await eventually_async(counted)
    run = await guarded.prompt("one refuse two", agent="scribe", timeout=60)
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.path[-1]) == ("Refused", "Slip in Guard.on_publish")
