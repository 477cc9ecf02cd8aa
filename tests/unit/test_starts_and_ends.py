"""Starts that fail in unusual ways, restarts, and successors that wait for who was before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    App,
    RestartPolicy,
    action,
    loop,
    timer,
)
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import LaunchOrder, LifeCall, ShutdownOrder
from agentray.store.base import LaunchedAgent
from agentray.store.memory import MemoryStore
from tests.support.hosts import Hosts
from tests.support.virtual_time import run

KEY = "k"
made: list[int] = []
alive: set[int] = set()
most: list[int] = []
stopped: list[int] = []
ran: list[int] = []


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time; it may take a day of it."""

    def wrapped() -> None:
        for kept in (made, alive, most, stopped, ran):
            kept.clear()
        run(test(), at_most_s=90_000)

    return wrapped


class Count(BaseModel):
    n: int = 0


class Numbered(Agent):
    """Knows which of its objects it is."""

    def __init__(self) -> None:
        self.number = len(made)
        made.append(self.number)

    async def on_stop(self) -> None:
        stopped.append(self.number)

    @action
    async def slow(self) -> int:
        alive.add(self.number)
        most.append(len(alive))
        await asyncio.sleep(5)
        alive.discard(self.number)
        return self.number

    @action
    async def quick(self) -> int:
        return self.number


NUMBERED = AgentId("numbered", KEY)


class OddStore(MemoryStore):
    """Raises what is not foreseen."""

    async def types_with_launched(self, agent_types: Sequence[str]) -> set[str]:
        return set(agent_types)

    async def load_launched(self, agents: Sequence[AgentId]) -> dict[AgentId, LaunchedAgent]:
        raise ValueError(f"invalid byte sequence in {agents[0]}")


@virtual
async def test_an_agent_that_fails_in_an_unforeseen_way_has_failed_and_says_so() -> None:
    hosts = Hosts(App("odd", [Numbered]), OddStore())
    await hosts.start(1)
    with pytest.raises(AgentFailed, match="invalid byte sequence"):
        await hosts.call(NUMBERED, "quick", timeout=None)
    await hosts.close()


# Who comes next waits for who was before


class Ticking(Agent):
    """Its first object's timer fails, while a handler will not be cancelled."""

    options = AgentOptions(concurrency=None)

    def __init__(self) -> None:
        self.number = len(made)
        made.append(self.number)

    @timer(1.0)
    async def tick(self) -> None:
        if self.number == 0:
            raise ValueError("boom")

    @action
    async def stubborn(self) -> int:
        end = asyncio.get_running_loop().time() + 25
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        ran.append(len(made))
        return self.number

    @action
    async def quick(self) -> int:
        return self.number


@virtual
async def test_a_restart_waits_for_handlers_that_will_not_be_cancelled() -> None:
    hosts = Hosts(App("ticking", [Ticking]))
    await hosts.start(1)
    agent = AgentId("ticking", KEY)
    stubborn = asyncio.create_task(hosts.call(agent, "stubborn"))
    await asyncio.sleep(5)
    assert await hosts.call(agent, "quick") == 1
    assert ran == [1]  # there was one object when the handler of the first one ended
    await asyncio.gather(stubborn, return_exceptions=True)
    await hosts.close()


@virtual
async def test_a_launched_agent_is_not_started_where_its_slot_was_lost_meanwhile() -> None:
    hosts = Hosts(App("numbered", [Numbered]))
    old, new = await hosts.start(2)
    slow = asyncio.create_task(hosts.call(NUMBERED, "slow"))
    await asyncio.sleep(1)
    order = encode(LaunchOrder(options={"mailbox": 7}))
    launch = hosts.client.request(Kind.LAUNCH, NUMBERED, LifeCall.LAUNCH, order, timeout=60)
    launching = asyncio.create_task(launch)
    await asyncio.sleep(0.5)  # the old self, which nobody launched, ends first
    quick = asyncio.create_task(hosts.call(NUMBERED, "quick"))
    await hosts.lease(new)
    await asyncio.gather(launching, quick, slow)
    assert old.find(NUMBERED) is None
    assert new.find(NUMBERED) is not None
    await hosts.close()


@virtual
async def test_an_agent_whose_slot_is_leased_anew_ends_before_its_successor_begins() -> None:
    hosts = Hosts(App("numbered", [Numbered]))
    (host,) = await hosts.start(1)
    first = asyncio.create_task(hosts.call(NUMBERED, "slow"))
    await asyncio.sleep(1)
    await hosts.lease(host)
    second = asyncio.create_task(hosts.call(NUMBERED, "slow"))
    assert [await first, await second] == [0, 1]
    assert max(most) == 1
    assert stopped == [0]
    await hosts.close()


# Ends


class Punctual(Agent):
    """Has a tick each second, which waits while a handler runs."""

    def __init__(self) -> None:
        made.append(len(made))

    @timer(1.0)
    async def tick(self) -> None:
        ran.append(1)

    @action
    async def slow(self) -> None:
        await asyncio.sleep(3)


@virtual
async def test_a_tick_that_waits_while_its_agent_is_shut_down_is_no_failure() -> None:
    hosts = Hosts(App("punctual", [Punctual]))
    (host,) = await hosts.start(1)
    agent = AgentId("punctual", KEY)
    slow = asyncio.create_task(hosts.call(agent, "slow"))
    await asyncio.sleep(2)
    await shut_down(hosts, agent, ShutdownOrder(10.0))
    await slow
    await asyncio.sleep(5)
    assert host.background.errors == 0
    assert made == [0]
    await hosts.close()


class Impolite(Agent):
    """Its loop ends with what a future does not take."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=0))

    @loop
    async def work(self) -> None:
        await asyncio.sleep(1)
        async with self.turn():
            next(iter([]))

    @action
    async def quick(self) -> str:
        return "done"


@virtual
async def test_a_turn_that_raises_stop_iteration_ends() -> None:
    hosts = Hosts(App("impolite", [Impolite]))
    (host,) = await hosts.start(1)
    agent = AgentId("impolite", KEY)
    assert await hosts.call(agent, "quick") == "done"
    await asyncio.sleep(2)  # its turn has ended
    with pytest.raises(AgentFailed, match="StopIteration"):
        await hosts.call(agent, "quick", timeout=1.0)
    assert host.background.errors == 1
    await hosts.close()


@virtual
async def test_a_termination_is_not_lost_because_a_shutdown_is_under_way() -> None:
    hosts = Hosts(App("numbered", [Numbered]))
    await hosts.start(1)
    order = encode(LaunchOrder())
    await hosts.client.request(Kind.LAUNCH, NUMBERED, LifeCall.LAUNCH, order, timeout=60)
    slow = asyncio.create_task(hosts.call(NUMBERED, "slow"))
    await asyncio.sleep(1)
    await shut_down(hosts, NUMBERED, ShutdownOrder(10.0, blocking=False))
    await shut_down(hosts, NUMBERED, ShutdownOrder(10.0, blocking=False, terminate=True))
    assert not slow.done()
    await asyncio.sleep(20)
    assert slow.done()
    assert await hosts.store.load_launched([NUMBERED]) == {}
    await hosts.close()


async def shut_down(hosts: Hosts, agent: AgentId, order: ShutdownOrder) -> None:
    """Shut an agent down as a client does."""
    await hosts.client.request(Kind.LAUNCH, agent, LifeCall.SHUTDOWN, encode(order), timeout=60)
