"""Senders that cannot be heard for long: their replies are kept, and what is lost is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from agentray import Agent, AgentId, App, HostDied, action
from agentray.protocol.envelope import Packet
from agentray.runtime.ports import HostUnreachable
from agentray.runtime.ray_adapter.host_actor import HostActor
from agentray.testing import run
from tests.support.wires import Bench, bench_of

WORKER = AgentId("worker", "ada")
HOUR_S = 3600.0


class Worker(Agent):
    @action
    async def work(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"worked for {seconds:g} s"

    @action(idempotent=True)
    async def look(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "looked"


def with_a_bench(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = await bench_of(App("silence", [Worker]))
        try:
            await scenario(bench)
        finally:
            await bench.close()

    run(whole(), at_most_s=3 * HOUR_S)


async def cut_off(bench: Bench, seconds: float) -> None:
    """Let nothing through for a while, from the moment on at which a call has reached the host."""
    passing = bench.wire.on_deliver, bench.wire.on_collect

    async def nothing(packet: Packet) -> Packet:
        del packet
        raise HostUnreachable("It cannot be reached.")

    await asyncio.sleep(1.0)
    bench.wire.on_collect = nothing
    bench.wire.on_deliver = nothing
    await asyncio.sleep(seconds)
    bench.wire.on_deliver, bench.wire.on_collect = passing


@pytest.mark.parametrize("works_s", [50.0, 590.0, 650.0, 1500.0])
@pytest.mark.parametrize("silent_s", [700.0, 2000.0])
def test_the_reply_of_a_call_waits_for_a_sender_that_was_cut_off(
    works_s: float, silent_s: float
) -> None:
    async def scenario(bench: Bench) -> None:
        call = asyncio.create_task(bench.channel.call(WORKER, "work", (works_s,), {}, timeout=None))
        await cut_off(bench, silent_s)
        assert await asyncio.wait_for(call, works_s + 5.0) == f"worked for {works_s:g} s"

    with_a_bench(scenario)


@pytest.mark.parametrize("name", ["work", "look"])
def test_a_sender_that_comes_back_too_late_is_told_and_may_ask_again(name: str) -> None:
    async def scenario(bench: Bench) -> None:
        call = asyncio.create_task(bench.channel.call(WORKER, name, (100.0,), {}, timeout=None))
        await cut_off(bench, 1.5 * HOUR_S)
        async with asyncio.timeout(130.0):
            if name == "look":
                assert await call == "looked"
            else:
                with pytest.raises(HostDied, match="forgot"):
                    await call
            assert await bench.channel.call(WORKER, "look", (0.0,), {}, timeout=5.0) == "looked"

    with_a_bench(scenario)


def test_a_host_that_stops_lets_the_replies_be_fetched_of_what_it_finishes() -> None:
    async def scenario(bench: Bench) -> None:
        actor = HostActor("host-1")
        # As `start` does it, with a Store that needs no server.
        actor._host = bench.host  # pyright: ignore[reportPrivateUsage]

        async def deliver(packet: Packet) -> Packet:
            return await actor.deliver(cast("bytes", packet))

        async def collect(packet: Packet) -> Packet:
            return await actor.collect(cast("bytes", packet))

        bench.wire.on_deliver, bench.wire.on_collect = deliver, collect
        call = asyncio.create_task(bench.channel.call(WORKER, "work", (3.0,), {}, timeout=None))
        await asyncio.sleep(1.0)
        stopping = asyncio.create_task(actor.stop(10.0))
        await asyncio.sleep(0)
        with pytest.raises(HostUnreachable, match="stopped"):
            await actor.heartbeat()
        assert await asyncio.wait_for(call, 5.0) == "worked for 3 s"
        await stopping
        with pytest.raises(HostUnreachable):
            await actor.collect(b"")

    with_a_bench(scenario)


def test_a_host_that_stops_waits_for_a_sender_that_is_on_its_way_and_not_for_ever() -> None:
    async def scenario(bench: Bench) -> None:
        late = bench.host.collect

        async def slowly(packet: Packet) -> Packet:
            await asyncio.sleep(0.5)
            return await late(packet)

        bench.wire.on_collect = slowly
        call = asyncio.create_task(bench.channel.call(WORKER, "work", (0.3,), {}, timeout=None))
        await asyncio.sleep(0.1)
        await bench.host.stop(10.0)
        assert call.done() or await asyncio.wait_for(call, 0.1)
        assert call.result() == "worked for 0.3 s"

        other = await bench_of(App("silence", [Worker]))
        lost = asyncio.create_task(other.channel.call(WORKER, "work", (0.3,), {}, timeout=None))
        await asyncio.sleep(0.1)
        other.wire.on_collect = _never
        begun = asyncio.get_running_loop().time()
        await other.host.stop(10.0)
        assert asyncio.get_running_loop().time() - begun < 5.0
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        await other.close()

    with_a_bench(scenario)


async def _never(packet: Packet) -> Packet:
    del packet
    raise HostUnreachable("It cannot be reached.")
