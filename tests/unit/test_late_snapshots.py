"""Hosts that hear late of where slots are: nothing is lost or repeated because of that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import ClassVar

import pytest

from agentray import Agent, App, Event, ManagerClient, RunStatus, on
from agentray.ids import AgentId, slot_of
from agentray.protocol.snapshot import Snapshot
from agentray.testing import LocalRuntime, run

RUNS = 24
FIRST, LAST = AgentId("first", "first"), AgentId("last", "last")


class Begun(Event):
    number: int = 0


class Step(Event):
    number: int = 0


class First(Agent):
    @on(Begun, key="key:first")
    async def pass_on(self, event: Begun) -> Step:
        return Step(number=event.number)


class Last(Agent):
    handled: ClassVar[list[int]] = []

    @on(Step, key="key:last")
    async def take(self, event: Step) -> None:
        self.handled.append(event.number)


def delay_snapshots(
    runtime: LocalRuntime, hosts: Collection[str], until: Callable[[], Awaitable[object]]
) -> None:
    """Let these hosts take what the manager tells them only when something has happened."""
    for host_id in hosts:
        host = runtime.network.hosts[host_id]
        update = host.update

        async def late(
            snapshot: Snapshot,
            epochs: Mapping[tuple[str, int], int],
            update: Callable[..., Awaitable[None]] = update,
        ) -> None:
            await until()
            await update(snapshot, epochs)

        host.update = late


async def check_runs(manager: ManagerClient) -> None:
    """Begin runs, and see that each is handled once."""
    runs = [await manager.dispatch(Begun(number=n)) for n in range(RUNS)]
    ended = await asyncio.gather(*(each.wait() for each in runs))
    assert {each.status for each in ended} == {RunStatus.SUCCEEDED}
    assert {each.attempt for each in ended} == {1}
    assert sorted(Last.handled) == list(range(RUNS))


@pytest.fixture(autouse=True)
def forget() -> None:
    Last.handled.clear()


def test_an_agent_that_has_come_to_a_host_is_not_taken_for_one_that_has_left_it() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime(hosts=3)
        async with runtime as manager:
            await manager.deploy(App("steps", [First, Last]))
            to, left = runtime.host_of(FIRST), runtime.host_of(LAST)
            assert to is not None
            if to == left:
                to = next(host for host in runtime.hosts if host != left)
                await manager.move_slots([slot_of(FIRST)], to)
            # Who begins the runs hears late of what who publishes the second event knows.
            told = asyncio.Event()
            delay_snapshots(runtime, set(runtime.hosts) - {to}, told.wait)
            await manager.move_slots([slot_of(LAST)], to)
            asyncio.get_running_loop().call_later(1.0, told.set)
            await check_runs(manager)

    run(scenario())


def test_a_host_stays_until_all_others_have_heard_that_it_leaves() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime(hosts=3)
        async with runtime as manager:
            await manager.deploy(App("steps", [First, Last]))
            sender, leaves = runtime.host_of(FIRST), runtime.host_of(LAST)
            assert sender is not None
            assert leaves is not None
            if sender == leaves:
                sender = next(host for host in runtime.hosts if host != leaves)
                await manager.move_slots([slot_of(FIRST)], sender)
            delay_snapshots(runtime, [sender], lambda: asyncio.sleep(4.0))
            draining = asyncio.create_task(manager.drain_host(leaves))
            await asyncio.sleep(2.5)
            await check_runs(manager)
            assert (await draining)["drained"]

    run(scenario())
