"""Launched agents: their life is kept, found again, and written only by who leases the slot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.protocol.launching import AgentStatus
from agentray.store.base import (
    CommitOutcome,
    Effects,
    LaunchedAgent,
    LaunchedQuery,
    LaunchedWrite,
    StateWrite,
    Store,
)
from tests.contract.samples import ADA, T0, at, host, lease

BOB, EVE = AgentId("greeter", "bob"), AgentId("poet", "eve")

FULL = LaunchedAgent(
    ADA,
    b"\0args",
    T0,
    {"team": "é"},
    AgentStatus.FAILED,
    EVE,
    "driver_1",
    "ValueError: no",
    {"idle_timeout_s": 1.5, "restart": {"max_restarts": 2}},
    3,
)


def write(launched: LaunchedAgent, epoch: int = 1, **how: bool) -> LaunchedWrite:
    return LaunchedWrite("default", 0, epoch, launched, **how)


async def leased(store: Store) -> None:
    await store.put_host(host("h1"))
    await store.assign_slots([lease("h1", 0)])


async def test_all_that_makes_an_agent_comes_back(store: Store):
    await store.put_launched([FULL])
    assert await store.load_launched([ADA]) == {ADA: FULL}
    assert await store.list_launched() == [FULL]


async def test_the_holder_of_the_slot_keeps_replaces_and_forgets(store: Store):
    await leased(store)
    bob = LaunchedAgent(BOB, b"", at(1))
    done = await store.keep_launched("h1", [write(FULL), write(bob)])
    assert done == [CommitOutcome.COMMITTED] * 2
    assert await store.list_launched() == [bob, FULL]

    stopped = replace(FULL, status=AgentStatus.STOPPED, owner=None, max_retries=None)
    await store.keep_launched("h1", [write(FULL, forget=True), write(stopped)])
    await store.keep_launched("h1", [write(bob), write(bob, forget=True)])
    assert await store.list_launched() == [stopped]
    assert await store.keep_launched("h1", []) == []


@pytest.mark.parametrize("who", ["other host", "old epoch", "dead host"])
async def test_whoever_lost_the_slot_cannot_write(store: Store, who: str):
    await leased(store)
    await store.put_launched([FULL])
    if who == "dead host":
        await store.assign_slots([], dead_hosts={"h1": "killed"})
    changed = replace(FULL, arguments=b"other")
    outcomes = await store.keep_launched(
        "h2" if who == "other host" else "h1", [write(changed, 0 if who == "old epoch" else 1)]
    )
    assert outcomes == [CommitOutcome.FENCED]
    assert await store.list_launched() == [FULL]


async def test_of_one_batch_each_write_is_judged_alone(store: Store):
    await leased(store)
    bob = LaunchedAgent(BOB, b"", at(1))
    outcomes = await store.keep_launched("h1", [write(FULL, epoch=7), write(bob)])
    assert outcomes == [CommitOutcome.FENCED, CommitOutcome.COMMITTED]
    assert await store.list_launched() == [bob]


async def test_an_agent_is_forgotten_with_its_state_only_when_asked(store: Store):
    await leased(store)
    for delete_state in (False, True):
        states = [StateWrite(ADA, {"n": 1}), StateWrite(BOB, {"n": 2})]
        await store.commit("h1", [Effects("default", 0, 1, states)])
        await store.put_launched([FULL])
        await store.keep_launched("h1", [write(FULL, forget=True, delete_state=delete_state)])
        assert await store.load_launched([ADA]) == {}
        kept = set(await store.load_states([ADA, BOB]))
        assert kept == ({BOB} if delete_state else {ADA, BOB})


async def test_agents_are_found_by_each_of_their_marks(store: Store):
    ada = replace(FULL, labels={"team": "a", "tier": "1"})
    bob = LaunchedAgent(BOB, b"", at(1), {"team": "a"})
    eve = LaunchedAgent(EVE, b"", at(2), {"team": "b"}, AgentStatus.REGISTERED)
    await store.put_launched([ada, bob, eve])

    async def find(**marks: object) -> list[LaunchedAgent]:
        return await store.list_launched(LaunchedQuery(**marks))  # pyright: ignore[reportArgumentType]

    assert await find() == [eve, bob, ada]
    assert await find(types=["greeter"]) == [bob, ada]
    assert await find(types=[]) == []
    assert await find(key="eve") == [eve]
    assert await find(labels={"team": "a"}) == [bob, ada]
    assert await find(labels={"team": "a", "tier": "1"}) == [ada]
    assert await find(labels={"team": "c"}) == []
    assert await find(statuses=[AgentStatus.FAILED, AgentStatus.REGISTERED]) == [eve, ada]
    assert await find(owner=EVE) == [ada]
    assert await find(driver="driver_1") == [ada]
    assert await find(driver="driver_1", key="bob") == []
    assert await store.list_launched(LaunchedQuery(labels={"team": "a"}), limit=1) == [bob]


async def test_types_with_launched_agents_and_drivers_that_live_are_known(store: Store):
    assert await store.types_with_launched(["greeter", "poet"]) == set()
    await store.put_launched(
        [
            FULL,
            replace(FULL, agent=BOB, driver="driver_2", status=AgentStatus.RUNNING),
            LaunchedAgent(AgentId("greeter", "x"), b"", T0),
        ]
    )
    assert await store.types_with_launched(["greeter", "poet"]) == {"greeter"}
    assert await store.live_drivers() == {"driver_2"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": {"a": "\0"}},
        {"labels": {"\ud800": "a"}},
        {"last_error": "\0"},
        {"agent": AgentId("greeter", "\ud800")},
        {"options": {"idle_timeout_s": float("inf")}},
    ],
)
async def test_what_cannot_be_stored_keeps_none(store: Store, wrong: dict[str, object]):
    await leased(store)
    bad = replace(FULL, **wrong)
    good = LaunchedAgent(BOB, b"", T0)
    with pytest.raises(PayloadError):
        await store.put_launched([good, bad])
    with pytest.raises(PayloadError):
        await store.keep_launched("h1", [write(good), write(bad)])
    assert await store.list_launched() == []
