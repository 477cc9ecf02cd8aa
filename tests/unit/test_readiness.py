"""When a gateway takes prompts: as soon as there is a pool that can serve some."""

from __future__ import annotations

from agentray.gateway.readiness import missing
from agentray.ids import SLOTS
from agentray.protocol.snapshot import PoolView, Snapshot, TypeView

SERVED = PoolView("default", ("host-1",) * SLOTS)
PENDING = PoolView("gpu", pending="a host needs 1 GPU, and no machine has one")


def snapshot(*pools: PoolView, stopped: bool = False, isolated: bool = False) -> Snapshot:
    """Return a cluster with an agent type in each of these pools."""
    types = {
        pool.name: TypeView(
            pool.name, "an app", pool.name, prompts=True, stopped=stopped, isolated=isolated
        )
        for pool in pools
    }
    return Snapshot(types=types, pools={pool.name: pool for pool in pools})


def test_without_an_app_there_is_nothing_to_serve():
    assert missing(Snapshot(pools={"default": SERVED})) == ["no app is deployed"]


def test_all_slots_must_have_a_host():
    assert missing(snapshot(SERVED)) == []
    half = PoolView("default", ("host-1",) * (SLOTS - 1) + (None,))
    assert missing(snapshot(half)) == ["slots of the pool 'default' without a host"]


def test_a_pending_pool_does_not_keep_the_others_from_serving():
    assert missing(snapshot(SERVED, PENDING)) == []


def test_where_every_pool_is_pending_each_says_why():
    assert missing(snapshot(PENDING)) == [
        "the pool 'gpu' is pending: a host needs 1 GPU, and no machine has one"
    ]


def test_a_pending_pool_does_not_hide_that_another_one_has_no_hosts_yet():
    assert missing(snapshot(PoolView("default"), PENDING)) == [
        "slots of the pool 'default' without a host"
    ]


def test_pools_without_agents_and_hosts_that_come_with_their_first_message_are_not_waited_for():
    assert missing(snapshot(PoolView("default"), stopped=True)) == []
    assert missing(snapshot(PoolView("default"), isolated=True)) == []
