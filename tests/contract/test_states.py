"""What operators do with states: pages, all or nothing, and forgetting only by who may write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.store.base import CommitOutcome, SlotLease, StateWrite, Store
from tests.contract.samples import ADA, effects, host, lease, serve, state


def of(key: str, n: int = 0, agent_type: str = "greeter") -> StateWrite:
    return StateWrite(AgentId(agent_type, key), {"n": n})


async def keys(store: Store, **how: Any) -> list[str]:
    return [found.agent.key for found in await store.list_states("greeter", **how)]


async def test_states_come_in_pages_in_the_order_of_their_keys(store: Store):
    names = ["b", "a", "a/b", "Z", "é", "~", "a b", "\N{GRINNING FACE}"]
    await store.put_states([of(name) for name in names] + [of("a", 9, "other")])
    seen: list[str] = []
    while page := await keys(store, after=seen[-1] if seen else "", limit=3):
        assert len(page) <= 3
        seen += page
    assert seen == sorted(names)
    assert await store.list_states("nobody") == []


async def test_a_page_ends_where_it_grows_large_but_is_never_empty(store: Store):
    texts = dict.fromkeys("abcd", "x" * 1000)
    await store.put_states([StateWrite(AgentId("greeter", k), {"t": t}) for k, t in texts.items()])
    assert await keys(store, max_bytes=1) == ["a"]
    assert await keys(store, max_bytes=1500) == ["a", "b"]
    assert await keys(store, after="b", max_bytes=10_000) == ["c", "d"]


async def test_states_that_are_put_replace_earlier_ones_with_their_versions(store: Store):
    await store.put_states([of("ada", 1), StateWrite(ADA, {"n": 2, "t": "\0"}, 3)])
    assert await store.load_states([ADA]) == {ADA: StateWrite(ADA, {"n": 2, "t": "\0"}, 3)}
    await store.put_states([])


@pytest.mark.parametrize(
    "bad", [StateWrite(ADA, {"n": float("nan")}), of("half \ud800"), StateWrite(ADA, {"n": {1}})]
)
async def test_states_are_put_all_or_none(store: Store, bad: StateWrite):
    with pytest.raises(PayloadError):
        await store.put_states([of("other", 1), bad])
    assert await store.list_states("greeter") == []


async def test_a_state_is_forgotten_by_the_host_that_leases_its_slot(store: Store):
    await serve(store)
    await store.commit("h1", [effects(states=[state(1), of("other", 2)])])
    assert await store.delete_state("h1", ADA, lease(epoch=1)) is CommitOutcome.COMMITTED
    assert await keys(store) == ["other"]
    assert await store.delete_state("h1", ADA, lease(epoch=1)) is CommitOutcome.COMMITTED


async def test_nobody_else_may_forget_it(store: Store):
    await serve(store)
    await store.put_host(host("h2"))
    await store.commit("h1", [effects(states=[state(1)])])
    for asker, held in (
        ("h1", lease(epoch=2)),
        ("h2", lease(epoch=1)),
        ("h1", lease(slot=1, epoch=1)),
        ("h1", SlotLease("other", 0, "h1", 1)),
        ("nobody", lease(epoch=1)),
    ):
        assert await store.delete_state(asker, ADA, held) is CommitOutcome.FENCED
    await store.assign_slots([], dead_hosts={"h1": "killed"})
    assert await store.delete_state("h1", ADA, lease(epoch=1)) is CommitOutcome.FENCED
    assert await keys(store) == ["ada"]


async def test_a_lease_that_moves_meanwhile_is_either_waited_for_or_seen(store: Store):
    await serve(store)
    await store.put_host(host("h2"))
    for epoch in range(1, 20, 2):
        await store.put_states([state(epoch)])
        outcome, _ = await asyncio.gather(
            store.delete_state("h1", ADA, lease(epoch=epoch)), store.assign_slots([lease("h2")])
        )
        kept = bool(await store.load_states([ADA]))
        assert kept is (outcome is CommitOutcome.FENCED)
        await store.assign_slots([lease("h1")])
