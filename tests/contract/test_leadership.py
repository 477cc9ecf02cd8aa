"""Who leads, and what managers write that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agentray.core.leadership import Lead
from agentray.errors import ManagerSuperseded
from agentray.store.base import (
    AppRow,
    CommitOutcome,
    Effects,
    PoolRow,
    SlotLease,
    StateWrite,
    Store,
)
from agentray.store.postgres import PostgresStore
from tests.contract.samples import ADA, T0, host, lease, new_run

FIRST = Lead(1, "place", "the first manager", 0, 100.5, "cluster_1")
SECOND = replace(FIRST, epoch=2, about="the second manager")

WRITES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "assign_slots": lambda store: store.assign_slots([lease("h1")]),
    "put_host": lambda store: store.put_host(host("h1")),
    "put_pool": lambda store: store.put_pool(PoolRow("big", b"\0spec")),
    "delete_pool": lambda store: store.delete_pool("big"),
    "put_app": lambda store: store.put_app(AppRow("a", b"", "", "d", "running", T0)),
    "delete_app": lambda store: store.delete_app("a", [ADA.type], states=True),
    "delete_subscription": lambda store: store.delete_subscription("sub_1"),
    "put_states": lambda store: store.put_states([StateWrite(ADA, {"n": 1})]),
    "retry_run": lambda store: store.retry_run("run_1"),
    "put_launched": lambda store: store.put_launched([]),
}


async def lead_by(store: Store, *leads: Lead) -> None:
    before: Lead | None = None
    for lead in leads:
        assert await store.write_lead(lead, instead_of=before)
        before = lead


async def test_the_lead_is_written_in_place_of_what_was_found(store: Store):
    assert (await store.read_lead())[0] is None
    assert not await store.write_lead(SECOND, instead_of=FIRST)
    assert await store.write_lead(FIRST, instead_of=None)
    assert not await store.write_lead(SECOND, instead_of=None)
    assert (await store.read_lead())[0] == FIRST

    renewed = replace(FIRST, renewals=1, expires_at=200.25)
    assert await store.write_lead(renewed, instead_of=FIRST)
    assert not await store.write_lead(SECOND, instead_of=FIRST)
    assert (await store.read_lead())[0] == renewed
    assert await store.write_lead(SECOND, instead_of=renewed)
    assert (await store.read_lead())[0] == SECOND


async def test_of_many_that_write_at_once_one_does(store: Store):
    claims = [replace(FIRST, place=str(n)) for n in range(8)]
    written = await asyncio.gather(*(store.write_lead(c, instead_of=None) for c in claims))
    assert written.count(True) == 1
    found, _ = await store.read_lead()
    assert found == claims[written.index(True)]


async def test_the_stores_time_goes_on(store: Store):
    times = [(await store.read_lead())[1] for _ in range(3)]
    assert times == sorted(times)


@pytest.mark.parametrize("write", WRITES)
async def test_what_a_former_manager_writes_is_refused(store: Store, write: str):
    await lead_by(store, FIRST)
    manager = store.as_manager(FIRST.epoch)
    await manager.open()
    await WRITES[write](manager)
    await store.write_lead(SECOND, instead_of=FIRST)
    before = await everything(store)
    if write != "put_launched":  # nothing is written: nothing is asked
        with pytest.raises(ManagerSuperseded, match="the second manager"):
            await WRITES[write](manager)
    assert await everything(store) == before
    assert await everything(manager) == before  # it may look
    await manager.close()
    await WRITES[write](store)  # those who are no managers are not asked


async def everything(store: Store) -> list[object]:
    return [
        await store.list_hosts(include_dead=True),
        await store.list_slots(),
        await store.list_pools(),
        await store.list_apps(),
        await store.list_states(ADA.type),
        await store.list_launched(),
        await store.list_runs(),
    ]


async def test_hosts_write_whoever_leads(store: Store):
    await lead_by(store, FIRST)
    manager = store.as_manager(FIRST.epoch)
    await manager.open()
    await manager.put_host(host("h1"))
    [given] = await manager.assign_slots([SlotLease("default", 3, "h1", 0)])
    await store.write_lead(SECOND, instead_of=FIRST)
    await store.admit([new_run()])
    effects = Effects("default", 3, given.epoch, states=[StateWrite(ADA, {"n": 2})])
    assert await store.commit("h1", [effects]) == [CommitOutcome.COMMITTED]
    await manager.close()
    await store.ping()  # the other connections stay


async def test_taking_the_lead_waits_for_a_write_under_way(
    postgres: PostgresStore, connection: Any
):
    await lead_by(postgres, FIRST)
    writer = connection
    await writer.execute("SET search_path = agentray")
    await writer.execute("SET agentray.manager_epoch = '1'")
    async with writer.transaction():
        await writer.execute("INSERT INTO pools (name, spec, successor) VALUES ('p', NULL, '')")
        taking = asyncio.create_task(postgres.write_lead(SECOND, instead_of=FIRST))
        await asyncio.wait((taking,), timeout=0.3)
        assert not taking.done()
    assert await taking
    assert [pool.name for pool in await postgres.list_pools()] == ["p"]
