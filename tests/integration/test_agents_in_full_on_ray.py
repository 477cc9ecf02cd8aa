"""What only real processes show of agents: their logs, two drivers, two hosts, pools."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import agentray
from agentray import ChannelClosed, ManagerClient
from agentray.ids import new_id
from tests.contract import hosting, in_full, lives
from tests.contract.in_full import Made, check_activated_once, fails_soon
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async
from tests.support.helpers import Ledger, Waiter

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]


@pytest.fixture(scope="module", autouse=True)
async def _deployed(manager: ManagerClient) -> None:
    for app in (hosting.APP, lives.LIVES, in_full.IN_FULL):
        await manager.deploy(app)


# Logs


async def test_a_handler_that_blocks_its_host_is_told_with_its_agent_and_its_stack(
    cluster: Cluster, manager: ManagerClient
):
    book = manager.handle(hosting.Book, new_id("book"))

    async def told() -> list[str]:
        await book.block(0.6)  # a machine that is too busy to tell is asked again
        logged = await asyncio.to_thread(cluster.logged, "loop_blocked")
        return [line["stack"] for line in logged if line["agent"] == str(book.id)]

    stack = (await eventually_async(told, timeout_s=60.0))[0]
    assert "hosting.py" in stack
    assert "in block" in stack

    async def counted() -> int:
        return sum(host["blocked"] for host in (await manager.status())["hosts"])

    await eventually_async(counted)


async def test_an_error_of_a_timer_is_logged_with_its_agent(
    cluster: Cluster, manager: ManagerClient
):
    clock = manager.handle(in_full.Clock, new_id("clock"))
    await clock.break_down()

    async def told() -> list[str]:
        logged = await asyncio.to_thread(cluster.logged, "background_failed")
        return [line["method"] for line in logged if line["agent"] == str(clock.id)]

    assert (await eventually_async(told, timeout_s=60.0))[0] == "often"


# Two drivers


async def test_two_drivers_see_the_same_agents_and_one_that_is_closed_says_so(
    cluster: Cluster, manager: ManagerClient
):
    async with agentray.connect(settings=cluster.settings) as other:
        await check_activated_once(manager, other)
        launched = await other.launch(Made, name=new_id("made"))
        assert launched.id in await manager.running()
        assert [r.handle for r in await manager.find(name=launched.id.key)] == [launched]
        waiting = asyncio.create_task(manager.wait([launched]))
        await other.shutdown(launched)
        assert await waiting == ({launched}, set())
        again = await manager.launch(launched)
        at_other = other.handle(Made, again.id.key)
        assert await at_other.made_as()
    assert await again.made_as()
    await fails_soon(at_other.made_as, ChannelClosed, "closed")
    await fails_soon(lambda: other.launch(Made), ChannelClosed, "closed")


async def test_a_notebook_whose_loop_runs_uses_what_does_not_await(
    cluster: Cluster, manager: ManagerClient
):
    assert asyncio.get_running_loop()
    with agentray.connect(settings=cluster.settings) as blocking:
        copyist = blocking.handle(lives.Copyist, "notebook").sync
        assert list(copyist.count(3)) == [0, 1, 2]
        assert copyist.same("text") == "text"
    assert await manager.handle(lives.Copyist, "notebook").same("text") == "text"


# Two hosts


async def test_a_large_value_goes_from_one_host_to_the_other_without_another_copy(
    manager: ManagerClient,
):
    await until_complete(manager)
    carriers = [manager.handle(in_full.Carrier, new_id("carrier")) for _ in range(20)]
    processes = await asyncio.gather(*(carrier.process() for carrier in carriers))
    here = processes[0]
    there = next(c for c, process in zip(carriers, processes, strict=True) if process != here)
    assert await carriers[0].carry(there.id.key) == (131_072.0, False)


# Pools


async def live_hosts_of(manager: ManagerClient, pool: str) -> bool:
    hosts = (await manager.status())["hosts"]
    return any(host["pool"] == pool and host["status"] == "live" for host in hosts)


async def test_another_pool_becomes_the_default_grows_and_drains_into_its_successor(
    manager: ManagerClient, tmp_path: Path
):
    before = await until_complete(manager)
    ledger = manager.handle(Ledger, new_id("ledger"))
    assert await ledger.add(5) == 5
    await manager.add_pool("other", hosts=(1, 2), load_per_host=2, grace_s=120)
    try:
        await manager.set_default_pool("other")
        waiters = [manager.handle(Waiter, new_id("waiter")) for _ in range(8)]
        homes = set(await asyncio.gather(*(waiter.process() for waiter in waiters)))
        assert homes.isdisjoint(before.values())
        assert await ledger.add(1) == 6
        gate = tmp_path / "gate"
        # Hosts come and go meanwhile, three of them: on a busy machine that takes its time.
        patient = [waiter.with_timeout(200) for waiter in waiters]
        calls = [asyncio.create_task(waiter.wait(str(gate))) for waiter in patient]

        async def has_grown() -> bool:
            (pool,) = [pool for pool in await manager.pools() if pool["name"] == "other"]
            return (pool["hosts"], pool["max_hosts"]) == (2, 2)

        await eventually_async(has_grown, timeout_s=60)
        draining = asyncio.create_task(manager.set_default_pool("default"))
        await eventually_async(lambda: live_hosts_of(manager, "default"), timeout_s=60)
        assert not draining.done()
        gate.touch()
        await draining
    finally:
        await manager.set_default_pool("default")
        await manager.remove_pool("other")
    assert set(await asyncio.gather(*calls)) == homes, "they ended where they had begun"
    after = await until_complete(manager)
    assert set(await asyncio.gather(*(w.process() for w in waiters))) <= set(after.values())
    assert await ledger.add(1) == 7
