"""Hosts are drained, pools scaled, hosts stopped in their tracks, while work goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentray import ManagerClient
from tests.support.cluster import RIVER, Cluster, live_hosts, until_complete
from tests.support.eventually import eventually_async
from tests.support.work import Work

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


async def test_hosts_leave_and_come_and_no_work_is_lost_or_repeated(
    cluster: Cluster, manager: ManagerClient
) -> None:
    before = await until_complete(manager)
    work = Work(manager, "moves", "ledger", RIVER)
    async with work.during():
        victim = min(before)
        told = await manager.drain_host(victim)
        assert told["drained"], told
        assert victim not in await live_hosts(manager)
        pool = await manager.scale_pool("default", 3)
        assert (pool["hosts"], pool["scaled_to"]) == (3, 3)
        hosts = sorted(await live_hosts(manager))
        moved = await manager.move_slots(range(0, 256, 2), hosts[0])
        assert moved["waiting"] == []
        assert await manager.balance_pool("default") == 128
        pool = await manager.scale_pool("default", None)
        assert (pool["hosts"], pool["scaled_to"]) == (2, None)
    assert work.problems == [], await work.why(cluster)
    assert work.done > 50
    await until_complete(manager, without=[before[victim]])

    async def gone() -> bool:
        return not psutil.pid_exists(before[victim])

    await eventually_async(gone, timeout_s=30)


async def test_a_stopped_host_whose_slots_moved_writes_nothing_when_it_wakes_and_leaves(
    manager: ManagerClient,
) -> None:
    hosts = await until_complete(manager)
    ledgers: list[Any] = [manager.handle("ledger", f"zombie-{n}") for n in range(8)]
    assert await asyncio.gather(*(ledger.add(1) for ledger in ledgers)) == [1] * 8
    victim, pid = next(iter(hosts.items()))
    os.kill(pid, signal.SIGSTOP)
    await eventually_async(lambda: asyncio.to_thread(_has_stopped, pid), interval_s=0.01)
    try:
        # These are on their way into the stopped process, which may find them when it wakes.
        lost = [asyncio.create_task(_add(ledger)) for ledger in ledgers]
        await until_complete(manager, without=[pid])
        outcomes = await asyncio.gather(*lost)
        written = await asyncio.gather(*(ledger.add(1) for ledger in ledgers))
    finally:
        with suppress(ProcessLookupError):  # it was ended as it was
            os.kill(pid, signal.SIGCONT)

    async def gone() -> bool:
        return not psutil.pid_exists(pid)

    await eventually_async(gone, timeout_s=60)
    assert victim not in await live_hosts(manager)
    after = await asyncio.gather(*(ledger.add(1) for ledger in ledgers))
    assert [total - 1 for total in after] == written, "nothing was written by who woke up"
    for outcome, total in zip(outcomes, written, strict=True):
        assert total == (3 if outcome else 2), "who was told of an error has written nothing"


def _has_stopped(pid: int) -> bool:
    """Whether no thread of a process runs any more: the signal reaches one after the other."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:  # a thread has ended meanwhile
        return False
    return all(state == "T" for state in states)


async def _add(ledger: Any) -> bool:
    try:
        await ledger.add(1)
    except Exception:  # noqa: BLE001 - whatever it is, it was not done
        return False
    return True
