"""The way to a host of the same machine past Ray: real sockets, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from agentray.ids import new_id
from agentray.runtime.machine_socket import SocketPort, SocketServer
from agentray.runtime.ports import HostUnreachable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its names exist on Linux only")


async def backwards(frame: bytes) -> bytes:
    if frame == b"fail":
        raise ValueError("not this one")
    return frame[::-1]


async def never(frame: bytes) -> bytes:
    await asyncio.get_running_loop().create_future()
    return frame


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


def test_what_fails_there_is_told_and_the_connection_stays(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            with pytest.raises(HostUnreachable, match="ValueError: not this one"):
                await port.deliver(b"fail")
            assert await port.deliver(b"ab") == b"ba"
            port.close()

    run(scenario)


def test_a_lost_connection_ends_what_waits_and_all_that_comes(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, server):
            port = await connected(host_id)
            collecting = asyncio.create_task(port.collect(b"x"))
            assert await port.deliver(b"ab") == b"ba"
            server.close()
            with pytest.raises(HostUnreachable):
                await collecting
            assert port.lost
            with pytest.raises(HostUnreachable):
                await port.deliver(b"ab")

    run(scenario)


def test_a_request_that_was_given_up_disturbs_no_other(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (host_id, _):
            port = await connected(host_id)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(port.collect(b"x"), 0.01)
            assert await port.deliver(b"ab") == b"ba"
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
            assert await port.deliver(b"ab") == b"ba"
            port.close()
            answers = iter([real, real + 1])  # the sender's look, then the host's
            with monkeypatch.context() as patch:
                patch.setattr(os, "getuid", lambda: next(answers))
                refused = await connected(host_id)
                with pytest.raises(HostUnreachable):
                    await refused.deliver(b"ab")

    run(scenario)
