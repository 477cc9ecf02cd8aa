"""The way to a host of the same machine past Ray: real sockets, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from agentray.ids import new_id
from agentray.protocol.envelope import Packet
from agentray.runtime.machine_socket import (
    SocketPort,
    SocketServer,
    _Packets,  # pyright: ignore[reportPrivateUsage]
    nbytes,
)
from agentray.runtime.ports import HostUnreachable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its names exist on Linux only")


async def backwards(packet: Packet) -> Packet:
    if packet == b"fail":
        raise ValueError("not this one")
    return packet[::-1]  # of several parts: their order


async def never(packet: Packet) -> Packet:
    await asyncio.get_running_loop().create_future()
    return packet


@asynccontextmanager
async def served() -> AsyncGenerator[tuple[str, SocketServer]]:
    host_id = new_id("host")
    server = SocketServer(backwards, never)
    await server.start(host_id)
    try:
        yield host_id, server
    finally:
        server.close()


async def connected(host_id: str) -> SocketPort:
    port = await SocketPort.connect(host_id)
    assert port is not None
    return port


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def run(scenario: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30.0):
                await scenario()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run


Run = Callable[[Callable[[], Awaitable[None]]], None]


def test_many_requests_of_all_sizes_get_each_its_own_response(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            frames = [os.urandom(size) for size in (0, 1, 100, 70_000, 3_000_000, 5, 1_000_000)]
            answers = await asyncio.gather(*(port.deliver(frame) for frame in frames))
            assert answers == [frame[::-1] for frame in frames]
            port.close()

    run(scenario)


def test_parts_arrive_apart_and_whole(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            parts = [b"frame", os.urandom(2_000_000), b"", os.urandom(300_000), b"end"]
            lent = [memoryview(part) for part in parts]
            answers = await asyncio.gather(port.deliver(lent), port.deliver(b"12"))
            assert answers == [parts[::-1], b"21"]
            assert [nbytes(lent), nbytes(b"12")] == [2_300_008, 2]
            port.close()

    run(scenario)


@pytest.mark.parametrize("cut", range(1, 60))
def test_packets_are_found_wherever_the_stream_is_cut(cut: int) -> None:
    found: list[tuple[int, int, Packet]] = []

    class Receiver(_Packets):
        def packet_received(self, number: int, what: int, packet: Packet) -> None:
            found.append((number, what, packet))

    sent: list[tuple[int, int, Packet]] = [
        (1, 1, b"12"),
        (2, 0, [b"x" * 20, b"", b"yz"]),
        (3, 2, b""),
    ]
    wire = bytearray()

    class Transport(asyncio.Transport):
        def is_closing(self) -> bool:
            return False

        def write(self, data: Any) -> None:
            wire.extend(data)

        def writelines(self, list_of_data: Iterable[Any]) -> None:
            wire.extend(b"".join(list_of_data))

    sender, receiver = _Packets(), Receiver()
    sender.connection_made(Transport())
    for number, what, packet in sent * 2:
        sender.write(number, what, packet)
    for start in range(0, len(wire), cut):
        receiver.data_received(bytes(wire[start : start + cut]))
    assert found == sent * 2


def test_what_fails_there_is_told_and_the_connection_stays(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            with pytest.raises(HostUnreachable, match="ValueError: not this one"):
                await port.deliver(b"fail")
            assert await port.deliver(b"12") == b"21"
            port.close()

    run(scenario)


def test_a_lost_connection_ends_what_waits_and_all_that_comes(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, server):
            port = await connected(host_id)
            collecting = asyncio.create_task(port.collect(b"x"))
            assert await port.deliver(b"12") == b"21"
            server.close()
            with pytest.raises(HostUnreachable):
                await collecting
            assert port.lost
            with pytest.raises(HostUnreachable):
                await port.deliver(b"12")

    run(scenario)


def test_a_request_that_was_given_up_disturbs_no_other(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(port.collect(b"x"), 0.01)
            assert await port.deliver(b"12") == b"21"
            port.close()

    run(scenario)


def test_there_is_no_way_to_a_host_that_is_not_on_this_machine(run: Run) -> None:
    async def scenario() -> None:
        assert await SocketPort.connect(new_id("host")) is None

    run(scenario)


def test_processes_of_another_user_are_refused_on_both_sides(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            real = os.getuid()
            with monkeypatch.context() as patch:
                patch.setattr(os, "getuid", lambda: real + 1)
                assert await SocketPort.connect(host_id) is None, "the sender looks, too"
            port = await connected(host_id)
            assert await port.deliver(b"12") == b"21"
            port.close()
            answers = iter([real, real + 1])  # the sender's look, then the host's
            with monkeypatch.context() as patch:
                patch.setattr(os, "getuid", lambda: next(answers))
                refused = await connected(host_id)
                with pytest.raises(HostUnreachable):
                    await refused.deliver(b"12")

    run(scenario)
