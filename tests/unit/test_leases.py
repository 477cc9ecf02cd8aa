"""Slots change hands: what is under way is finished once, and nobody sees two of an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentId, AgentOptions, App, action
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import LaunchOrder, LifeCall
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async
from tests.support.hosts import Hosts
from tests.support.virtual_time import run

KEY = "k"
happened: list[str] = []


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time; it may take an hour of it."""

    def wrapped() -> None:
        happened.clear()
        run(test(), at_most_s=3600)

    return wrapped


class Count(BaseModel):
    n: int = 0


class Payer(Agent):
    state: Count

    @action
    async def pay(self) -> int:
        happened.append("paid")
        await asyncio.sleep(2)
        self.state.n += 1
        return self.state.n

    @action
    async def pay_late(self) -> int:
        await asyncio.sleep(2)
        self.state.n += 1
        await asyncio.sleep(20)
        return self.state.n


class Slow(Agent):
    options = AgentOptions(concurrency=None)

    @action
    async def slow(self) -> str:
        await asyncio.sleep(5)
        return "done"

    @action
    async def quick(self) -> str:
        happened.append("quick")
        return "done"


PAYER, SLOW = AgentId("payer", KEY), AgentId("slow", KEY)
APP = App("leases", [Payer, Slow])


def begin(hosts: Hosts, agent: AgentId, action_: str) -> asyncio.Task[Any]:
    return asyncio.create_task(hosts.call(agent, action_))


@virtual
async def test_a_handler_that_ends_within_the_grace_is_written_and_not_done_again() -> None:
    hosts = Hosts(APP)
    old, new = await hosts.start(2)
    paying = begin(hosts, PAYER, "pay")
    await asyncio.sleep(1)
    await hosts.release(old)
    assert paying.done()
    await hosts.lease(new)
    assert await paying == 1
    assert await hosts.call(PAYER, "pay") == 2
    assert happened == ["paid", "paid"]
    await hosts.close()


@virtual
async def test_a_host_that_stops_writes_what_ends_within_the_grace() -> None:
    hosts = Hosts(APP)
    old, _ = await hosts.start(2)
    paying = begin(hosts, PAYER, "pay")
    await asyncio.sleep(1)
    await old.stop(10.0)
    written = (await hosts.store.load_states([PAYER]))[PAYER]
    assert written.state == {"n": 1}
    assert happened == ["paid"]
    paying.cancel()
    await hosts.close()


@virtual
async def test_nothing_is_written_for_a_slot_after_its_release() -> None:
    hosts = Hosts(APP)
    old, new = await hosts.start(2)
    paying = begin(hosts, PAYER, "pay_late")
    await asyncio.sleep(1)
    await hosts.release(old, grace_s=5.0)
    await hosts.lease(new)
    with pytest.raises(Exception, match="had to leave"):
        await paying
    assert await hosts.store.load_states([PAYER]) == {}
    await hosts.close()


@virtual
async def test_an_announcement_does_not_give_back_what_is_being_released() -> None:
    hosts = Hosts(APP)
    old, new = await hosts.start(2)
    slow = begin(hosts, SLOW, "slow")
    await asyncio.sleep(1)
    releasing = asyncio.create_task(hosts.release(old))
    await asyncio.sleep(0.1)
    await hosts.announce(old)  # for whatever other reason
    assert not old.leases(SLOW)
    quick = begin(hosts, SLOW, "quick")
    await releasing
    assert not quick.done()
    assert await slow == "done"
    await hosts.announce(old)
    assert not old.leases(SLOW)
    await hosts.lease(new)
    assert await quick == "done"
    assert new.find(SLOW) is not None
    assert old.find(SLOW) is None
    await hosts.lease(old)  # with another epoch
    assert old.leases(SLOW)
    await hosts.close()


class Aside(Agent):
    options = AgentOptions(pool="side", concurrency=None)

    @action
    async def slow(self) -> str:
        await asyncio.sleep(8)
        return "done"

    @action
    async def quick(self) -> str:
        return "done"


@pytest.mark.parametrize("manager_dies", [False, True])
def test_slots_whose_new_host_dies_are_served_by_the_old_one(manager_dies: bool) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=1, resources={"CPU": 4})
        async with runtime as manager:
            await manager.add_pool("side", hosts=1, num_cpus=1)
            await manager.deploy(App("aside", [Aside], pools=["side"]))
            agent = manager.handle(Aside, KEY)
            await agent.quick()
            before = set(runtime.hosts)
            slow = asyncio.create_task(agent.slow())
            await asyncio.sleep(0.5)
            changing = asyncio.create_task(manager.add_pool("side", hosts=1, num_cpus=2))

            async def another_host() -> set[str]:
                return set(runtime.hosts) - before

            new = await eventually_async(another_host)
            await asyncio.sleep(1)  # the old host gives its slots up, but for what is under way
            runtime.provide({"CPU": 0})  # the new one's machine is lost
            await runtime.kill_host(new.pop())
            if manager_dies:
                await runtime.restart_manager()
            assert await slow == "done"
            assert await agent.with_timeout(30).quick() == "done"
            assert runtime.host_of(agent.id) in before
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)

    run(whole())


@virtual
async def test_a_host_that_nobody_told_executes_nothing_more_once_the_store_refused_it() -> None:
    hosts = Hosts(APP)
    old, new = await hosts.start(2)
    assert await hosts.call(PAYER, "pay") == 1
    await hosts.assign(new)  # and nobody is told
    paying = begin(hosts, PAYER, "pay")
    await asyncio.sleep(30)
    assert happened == ["paid", "paid"]
    assert not old.leases(PAYER)
    assert old.find(PAYER) is None
    await hosts.announce(new)
    assert await paying == 2
    await hosts.close()


@virtual
async def test_a_start_on_a_host_that_was_fenced_is_no_failure_of_the_agent() -> None:
    hosts = Hosts(APP)
    old, new = await hosts.start(2)
    order = encode(LaunchOrder())
    await hosts.client.request(Kind.LAUNCH, SLOW, LifeCall.REGISTER, order, timeout=10)
    await hosts.assign(new)
    calling = begin(hosts, SLOW, "quick")  # its first message makes a registered agent run
    await asyncio.sleep(10)
    assert not calling.done()
    assert old.find(SLOW) is None
    await hosts.announce(new)
    assert await calling == "done"
    await hosts.close()


class Diligent(Agent):
    options = AgentOptions(mailbox=1000)

    @action
    async def note(self, what: str) -> None:
        await asyncio.sleep(1)
        happened.append(f"{what} from {self.context.sender}")


DILIGENT = AgentId("diligent", KEY)


@virtual
async def test_told_messages_that_wait_are_done_by_the_agents_next_host_in_their_order() -> None:
    hosts = Hosts(App("diligent", [Diligent]))
    old, new = await hosts.start(2)
    for number in range(20):
        await hosts.client.tell(DILIGENT, "note", (str(number),), {})
    await asyncio.sleep(2.5)
    await hosts.release(old)
    await hosts.lease(new)
    await asyncio.sleep(60)
    assert [line.partition(" ")[0] for line in happened] == [str(n) for n in range(20)]
    await hosts.close()


@virtual
async def test_told_messages_keep_their_sender_when_their_agent_moves() -> None:
    hosts = Hosts(App("telling", [Diligent, Teller]))
    old, new = await hosts.start(2)
    for key in "abc":
        await hosts.call(AgentId("teller", key), "tell_twice")
    await hosts.release(old)
    await hosts.lease(new)
    await asyncio.sleep(60)
    senders = [line.partition(" from ")[2] for line in happened]
    assert senders == [f"teller/{key}" for key in "aabbcc"]
    await hosts.close()


class Teller(Agent):
    @action
    async def tell_twice(self) -> None:
        for _ in range(2):
            await self.handle(Diligent, KEY).note.tell("said")


def test_told_messages_that_no_host_takes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def stop_the_only_host() -> None:
        hosts = Hosts(App("diligent", [Diligent]))
        (host,) = await hosts.start(1)
        for number in range(3):
            await hosts.client.tell(DILIGENT, "note", (str(number),), {})
        await host.stop(10.0)
        await hosts.client.close()

    stop_the_only_host()
    assert [getattr(r, "action", "") for r in caplog.records].count("tell_lost") == 2
    assert len(happened) == 1
