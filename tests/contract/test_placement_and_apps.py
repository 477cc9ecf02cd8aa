"""Hosts, leases, apps, launched agents and API keys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.protocol.topics import TopicSubscription
from agentray.store.base import (
    AppRow,
    LaunchedAgent,
    LaunchedQuery,
    PoolRow,
    SlotLease,
    Store,
)
from tests.contract.samples import ADA, T0, at, host, lease


async def test_a_host_is_replaced_until_it_is_dead(store: Store):
    live = host(node_id="n", pid=2**31 + 5)
    await store.put_host(host(status="starting"))
    await store.put_host(live)
    assert await store.list_hosts() == [live]

    dead = replace(live, status="dead", reason="killed")
    await store.put_host(dead)
    await store.put_host(live)
    assert await store.list_hosts() == []
    assert await store.list_hosts(include_dead=True) == [dead]


async def test_every_assignment_raises_the_epoch(store: Store):
    first = await store.assign_slots([lease("h1", 1, epoch=50), lease("h1", 0)])
    second = await store.assign_slots([lease("h2", 0), lease("h1", 1), lease(None, 2)])

    assert first == [lease("h1", 1, 1), lease("h1", 0, 1)]
    assert second == [lease("h2", 0, 2), lease("h1", 1, 2), lease(None, 2, 1)]
    assert await store.list_slots() == second


async def test_leases_are_listed_by_pool(store: Store):
    other = SlotLease("Gpu", 0, "h9", 1)
    await store.assign_slots([lease(slot=10), lease(slot=9), other])

    assert await store.list_slots() == [other, lease(slot=9, epoch=1), lease(slot=10, epoch=1)]
    assert await store.list_slots("Gpu") == [other]
    assert await store.list_slots("none") == []


async def test_a_slot_is_assigned_once_in_a_call(store: Store):
    with pytest.raises(ValueError, match="once"):
        await store.assign_slots([lease("h1"), lease("h2")])
    assert await store.list_slots() == []


async def test_hosts_are_declared_dead_with_the_first_reason(store: Store):
    await store.put_host(host("h1"))
    await store.put_host(host("h2"))

    assert await store.assign_slots([], dead_hosts={"h1": "killed", "h0": "unknown"}) == []
    await store.assign_slots([lease("h2")], dead_hosts={"h1": "again"})

    dead = host("h1", "dead", reason="killed")
    assert await store.list_hosts(include_dead=True) == [dead, host("h2")]


async def test_apps_keep_the_order_of_their_first_deployment(store: Store):
    z = AppRow("z", b"\0spec", "m:app", "d", "running", T0)
    a = replace(z, name="a", import_string="")
    await store.put_app(z)
    await store.put_app(a)
    await store.put_app(stopped := replace(z, status="stopped", deployed_at=at(5)))
    assert await store.list_apps() == [stopped, a]


async def test_pools_keep_the_order_in_which_they_came_until_they_are_forgotten(store: Store):
    big = PoolRow("big", b"\0spec")
    await store.put_pool(big)
    await store.put_pool(default := PoolRow("default", None, "big"))
    await store.put_pool(changed := replace(big, spec=b""))
    assert await store.list_pools() == [changed, default]

    await store.delete_pool("big")
    await store.delete_pool("nobody's")
    assert await store.list_pools() == [default]
    await store.put_pool(big)
    assert await store.list_pools() == [default, big]


async def test_subscriptions_are_kept_once_in_the_order_in_which_they_came(store: Store):
    first = TopicSubscription("sub_9", "clerk", "orders.*", None, "topic", T0)
    others = [
        replace(first, id="sub_1", event_type="shop.Ordered"),
        replace(first, id="sub_2", topic="orders"),
        replace(first, id="sub_3", key=f"key:{''.join(map(chr, range(0x4E00, 0x5000)))}"),
        replace(first, id="sub_4", agent_type="Clerk"),
    ]
    for subscription in (first, *others):
        assert await store.put_subscription(subscription) == subscription
    for known in (first, others[0]):
        assert await store.put_subscription(replace(known, id="sub_0", created_at=at(9))) == known
    assert await store.list_subscriptions() == [first, *others]

    assert await store.delete_subscription("sub_9") is True
    assert await store.delete_subscription("sub_9") is False
    again = replace(first, id="sub_0", created_at=at(9))
    assert await store.put_subscription(again) == again
    assert await store.list_subscriptions() == [*others, again]


async def test_a_subscription_that_cannot_be_stored_is_refused(store: Store):
    good = TopicSubscription("sub_1", "clerk", "orders", None, "topic", T0)
    for bad in ({"key": "key:\0"}, {"event_type": "\ud800"}):
        with pytest.raises(PayloadError):
            await store.put_subscription(replace(good, **bad))
    assert await store.list_subscriptions() == []


async def test_launched_agents_are_found_and_listed_newest_first(store: Store):
    ada = LaunchedAgent(ADA, b"\0args", T0, {"team": "é"})
    bob = LaunchedAgent(AgentId("greeter", "bob"), b"", at(1))
    poet = LaunchedAgent(AgentId("poet", "ada"), b"", at(1))
    await store.put_launched([ada, poet, bob])

    assert await store.list_launched() == [bob, poet, ada]
    assert await store.list_launched(limit=1) == [bob]
    assert await store.list_launched(LaunchedQuery(types=["poet"])) == [poet]
    assert await store.load_launched([ADA, AgentId("no", "one")]) == {ADA: ada}
    assert await store.load_launched([]) == {}


async def test_the_last_launch_of_an_agent_counts(store: Store):
    first, second, third = [LaunchedAgent(ADA, b"%d" % n, at(n)) for n in range(3)]
    await store.put_launched([first])
    await store.put_launched([second, third])
    assert await store.list_launched() == [third]


async def test_a_store_answers_and_may_be_opened_and_closed_again(store: Store):
    await store.ping()
    await store.put_host(host())
    await store.open()
    await store.close()
    await store.close()
    await store.open()
    assert await store.list_hosts() == [host()]
