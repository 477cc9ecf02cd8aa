"""A connection in the background: used from other event loops and from threads."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from agentray import (
    Agent,
    AgentId,
    App,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    Handle,
    PayloadError,
    action,
)
from agentray.context import (
    Caller,
    bind_process,
    connect_unbound_by,
    process_caller,
    release_process,
)
from agentray.runtime.worker_connection import BackgroundConnection, worker_caller
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Desk(Agent):
    def __init__(self) -> None:
        self.closed = 0

    @action
    async def size(self, values: list[int]) -> int:
        return len(values)

    @action
    async def fail(self, kind: str) -> None:
        raise {"error": ValueError, "exit": SystemExit}[kind]("on purpose")

    @action
    async def up_to(self, end: int) -> AsyncIterator[int]:
        try:
            for number in range(end):
                yield number
        finally:
            self.closed += 1

    @action
    async def failing_stream(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("in between")

    @action
    async def was_closed(self) -> int:
        return self.closed

    @action
    async def forever(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed += 1


class Connections:
    """Makes connections to runtimes of their own, and counts them."""

    def __init__(self) -> None:
        self.made = 0
        self.failures = 0

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Caller]:
        self.made += 1
        if self.failures:
            self.failures -= 1
            raise ConfigurationError("not just now")
        async with LocalRuntime() as manager:
            await manager.deploy(App("desk", [Desk]))
            caller = manager.handle(Desk, "d").caller
            release_process(caller)
            yield caller


@pytest.fixture
def connections() -> Connections:
    return Connections()


@pytest.fixture
def connection(connections: Connections) -> Generator[BackgroundConnection]:
    connection = BackgroundConnection(connections.connect)
    yield connection
    connection.close()
    assert "agentray-connection" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def desk(connection: BackgroundConnection) -> Handle[Desk]:
    return Handle(AgentId("desk", "d"), connection.caller())


async def test_calls_from_another_event_loop(desk: Handle[Desk]):
    assert await asyncio.gather(*(desk.size([0] * n) for n in range(100))) == list(range(100))
    with pytest.raises(ValueError, match="on purpose"):
        await desk.fail("error")
    with pytest.raises(DeadlineExceeded):
        await desk.with_timeout(0.05).forever()
    await desk.size.tell([])
    assert await desk.ping() >= 0
    assert (await desk.status())["status"] == "idle"
    assert (await desk.stats())["completed"] >= 100
    assert "size" in (await desk.describe())["actions"]


async def test_an_agents_exit_does_not_end_the_connection(desk: Handle[Desk]):
    with pytest.raises(BaseException, match="on purpose"):
        await desk.fail("exit")
    assert await desk.size([]) == 0


async def test_arguments_are_copied_where_they_are_given(desk: Handle[Desk]):
    values = [1]
    call = asyncio.create_task(desk.size(values))
    await asyncio.sleep(0)
    values.append(2)
    assert await call == 1
    with pytest.raises(PayloadError, match="size"):
        await desk.size([threading.Lock()])


async def test_a_cancelled_call_ends_with_its_handler(desk: Handle[Desk]):
    call = asyncio.create_task(desk.with_timeout(None).forever())

    async def runs() -> bool:
        return (await desk.status())["status"] == "running"

    await eventually_async(runs)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await desk.status())["status"] == "idle"
    assert await desk.was_closed() == 1


async def test_a_call_that_is_cancelled_at_once_ends_too(desk: Handle[Desk]):
    call = asyncio.create_task(desk.with_timeout(None).forever())
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call], timeout=30)
    assert call.cancelled()
    assert await desk.with_timeout(30).size([]) == 0


async def test_streams_from_another_event_loop(desk: Handle[Desk]):
    assert [number async for number in desk.up_to(300)] == list(range(300))
    failing = desk.failing_stream()
    assert await anext(failing) == 1
    with pytest.raises(ValueError, match="in between"):
        await anext(failing)
    async with desk.stream(Desk.up_to, 10**9) as numbers:  # type: ignore[attr-defined]
        assert await anext(numbers) == 0  # type: ignore[arg-type]
    assert await desk.was_closed() == 2
    # Dropped without a word: the agent is free again.
    assert await anext(desk.up_to(10**9)) == 0
    assert await desk.with_timeout(30).was_closed() == 3


async def test_threads_use_its_sync_handles(desk: Handle[Desk]):
    def script() -> tuple[int, list[int]]:
        return desk.sync.size([1, 2]), list(desk.sync.up_to(5))

    scripts = [asyncio.to_thread(script) for _ in range(4)]
    assert await asyncio.gather(*scripts) == [(2, [0, 1, 2, 3, 4])] * 4


def test_threads_that_come_at_once_get_one_connection(
    connection: BackgroundConnection, connections: Connections
):
    together = threading.Barrier(8)

    def first_use() -> Caller:
        together.wait(60)
        return connection.caller()

    with ThreadPoolExecutor(8) as threads:
        callers = [made.result() for made in [threads.submit(first_use) for _ in range(8)]]
    assert len({id(caller) for caller in callers}) == 1
    assert connections.made == 1


def test_what_fails_to_connect_says_why_and_is_tried_again(
    connection: BackgroundConnection, connections: Connections
):
    connections.failures = 1
    with pytest.raises(ConfigurationError, match="not just now"):
        connection.caller()
    assert Handle[Desk](AgentId("desk", "d"), connection.caller()).sync.size([]) == 0


async def test_calls_under_way_fail_when_it_is_closed_and_later_ones_connect_anew(
    connection: BackgroundConnection, connections: Connections, desk: Handle[Desk]
):
    call = asyncio.create_task(desk.with_timeout(None).forever())

    async def runs() -> bool:
        return (await desk.status())["status"] == "running"

    await eventually_async(runs)
    await asyncio.to_thread(connection.close)
    with pytest.raises(ChannelClosed):
        await call
    with pytest.raises(ChannelClosed):
        await desk.size([])
    assert await Handle[Desk](desk.id, connection.caller()).size([1]) == 1
    assert connections.made == 2


# Which caller a process has


async def test_unpickled_handles_connect_where_nothing_is_bound(connection: BackgroundConnection):
    connect_unbound_by(connection.caller)
    try:
        desk: Handle[Desk] = pickle.loads(pickle.dumps(Handle[Desk](AgentId("desk", "d"))))
        assert await desk.size([1]) == 1
        assert await asyncio.to_thread(lambda: desk.sync.size([1, 2])) == 2
    finally:
        connect_unbound_by(worker_caller)


async def test_a_driver_is_told_what_to_do():
    assert worker_caller() is None
    with pytest.raises(ConfigurationError, match=r"with agentray\.connect\(\) as manager"):
        await Handle[Desk](AgentId("desk", "d")).size([])


async def test_closing_one_connection_leaves_the_others_bound():
    async with LocalRuntime() as outer:
        await outer.deploy(App("desk", [Desk]))
        unbound = Handle[Desk](AgentId("desk", "d"))
        async with LocalRuntime() as inner:
            assert process_caller() is inner.handle(Desk, "d").caller
        assert process_caller() is outer.handle(Desk, "d").caller
        assert await unbound.size([1]) == 1


async def test_a_caller_whose_event_loop_has_ended_is_not_used() -> None:
    """As that of a program which was interrupted before it could release it."""

    def interrupted() -> None:
        with asyncio.Runner() as runner:
            runtime = LocalRuntime()
            runner.run(runtime.__aenter__())

    await asyncio.to_thread(interrupted)
    with pytest.raises(ConfigurationError):
        process_caller()


def test_callers_may_be_released_in_any_order(connection: BackgroundConnection):
    first, second = connection.caller(), BackgroundConnection(Connections().connect)
    other = second.caller()
    bind_process(first)
    bind_process(other)
    release_process(first)
    assert process_caller() is other
    release_process(other)
    release_process(other)
    with pytest.raises(ConfigurationError):
        process_caller()
    second.close()


def test_a_process_ends_without_hanging_or_a_word():
    script = (
        "from tests.unit.test_bridge import *\n"
        "c = BackgroundConnection(Connections().connect)\n"
        "h = Handle(AgentId('desk', 'd'), c.caller())\n"
        "print(h.sync.size([1]))\n"
        "stream = h.sync.up_to(10**9)\n"
        "print(next(stream))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n0\n", ""), done
