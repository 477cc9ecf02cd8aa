"""Failures and permanent agents in the Store: kept, found again, and written by who may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.store.base import HostRow, Store
from agentray.store.supervision import AgentFailure, FailureKind, FailureWrite
from tests.contract.samples import ADA, T0, at, host, lease

BOB, EVE = AgentId("greeter", "bob"), AgentId("poet", "eve")

FAILED = AgentFailure(
    ADA, FailureKind.FAILED, "ValueError: é", "Traceback …\n  line", T0, 2, "digest"
)
QUARANTINED = replace(FAILED, agent=EVE, kind=FailureKind.QUARANTINED, at=at(1))
SUSPECTED = replace(FAILED, agent=BOB, kind=FailureKind.SUSPECTED, at=at(2))


def write(failure: AgentFailure | None, agent: AgentId = ADA, epoch: int = 1) -> FailureWrite:
    return FailureWrite("default", 0, epoch, agent, failure)


async def leased(store: Store) -> None:
    await store.put_host(host("h1"))
    await store.assign_slots([lease("h1", 0)])


async def test_the_holder_of_the_slot_keeps_replaces_and_forgets(store: Store):
    await leased(store)
    assert await store.keep_failures("h1", [write(FAILED), write(SUSPECTED, BOB)]) == {ADA, BOB}
    assert await store.load_failures([ADA, EVE]) == {ADA: FAILED}
    again = replace(FAILED, error="KeyError: 1", deaths=3)
    assert await store.keep_failures("h1", [write(again)]) == {ADA}
    assert await store.load_failures([ADA]) == {ADA: again}
    assert await store.keep_failures("h1", [write(None), write(None, EVE)]) == {ADA, EVE}
    assert await store.load_failures([ADA, BOB]) == {BOB: SUSPECTED}
    assert await store.keep_failures("h1", []) == set()


async def test_who_does_not_lease_the_slot_writes_nothing(store: Store):
    await leased(store)
    assert await store.keep_failures("h2", [write(FAILED)]) == set()
    assert await store.keep_failures("h1", [write(FAILED, epoch=2)]) == set()
    assert await store.load_failures([ADA]) == {}
    await store.keep_failures("h1", [write(FAILED)])
    await store.put_host(HostRow("h1", "default", "agentray-h1", "dead"))
    assert await store.keep_failures("h1", [write(None)]) == set()
    assert await store.load_failures([ADA]) == {ADA: FAILED}


async def test_the_manager_keeps_and_forgets_whoever_leases(store: Store):
    await store.put_failures([FAILED, SUSPECTED])
    await store.put_failures([QUARANTINED, replace(FAILED, deaths=5)], forget=[BOB])
    found = await store.load_failures([ADA, BOB, EVE])
    assert found.keys() == {ADA, EVE}
    assert found[ADA].deaths == 5


async def test_failures_are_listed_by_kind_and_type_newest_first(store: Store):
    await store.put_failures([FAILED, QUARANTINED, SUSPECTED])
    both = [FailureKind.FAILED, FailureKind.QUARANTINED]
    assert await store.list_failures(kinds=both) == [QUARANTINED, FAILED]
    assert await store.list_failures(kinds=both, limit=1) == [QUARANTINED]
    assert await store.list_failures(kinds=both, agent_type="greeter") == [FAILED]
    assert await store.list_failures(kinds=[FailureKind.SUSPECTED]) == [SUSPECTED]
    assert await store.types_with_failures(["greeter", "poet", "other"]) == {"greeter"}


@pytest.mark.parametrize("what", ["error", "traceback"])
async def test_texts_that_cannot_be_stored_are_refused(store: Store, what: str):
    with pytest.raises(PayloadError):
        await store.put_failures([replace(FAILED, **{what: "a\0b"})])
    assert await store.load_failures([ADA]) == {}


async def test_permanent_agents_are_found_by_type_and_slot(store: Store):
    await store.keep_permanent([(ADA, 1), (BOB, 2), (EVE, 1)])
    await store.keep_permanent([(ADA, 1)])
    assert await store.list_permanent(["greeter"], [1, 2]) == [ADA, BOB]
    assert await store.list_permanent(["greeter", "poet"], [1]) == [ADA, EVE]
    assert await store.list_permanent(["greeter", "poet"], [1], limit=1) == [ADA]
    await store.forget_permanent([ADA, AgentId("greeter", "nobody")])
    assert await store.list_permanent(["greeter", "poet"], [1, 2]) == [BOB, EVE]
    assert await store.list_permanent([], [1]) == []
