"""Handles for code that does not await: in threads of drivers and of handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from agentray import (
    Agent,
    App,
    ConfigurationError,
    DeadlineExceeded,
    ManagerClient,
    action,
)
from agentray.testing import LocalRuntime


class Counter(Agent):
    def __init__(self) -> None:
        self.closed = False

    @action
    async def add(self, a: int, b: int) -> int:
        return a + b

    @action
    async def fail(self) -> None:
        raise ValueError("on purpose")

    @action
    async def up_to(self, end: int) -> AsyncIterator[int]:
        try:
            for number in range(end):
                yield number
        finally:
            self.closed = True

    @action
    async def was_closed(self) -> bool:
        return self.closed

    @action
    async def forever(self) -> None:
        await asyncio.get_running_loop().create_future()


class Threaded(Agent):
    @action
    async def sum_in_a_thread(self, numbers: list[int]) -> tuple[int, bool]:
        thread = threading.current_thread()
        return await self.run_sync(self._sum, numbers, thread)

    def _sum(self, numbers: list[int], loop_thread: threading.Thread) -> tuple[int, bool]:
        counter = self.handle(Counter, "c").sync
        total = 0
        for number in numbers:
            total = counter.add(total, number)
        return total, threading.current_thread() is not loop_thread

    @action
    async def wait_in_a_thread(self) -> None:
        await self.run_sync(self.handle(Counter, "c").sync.forever)

    @action
    async def block_the_loop(self) -> int:
        return self.handle(Counter, "c").sync.add(1, 1)


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime() as manager:
        await manager.deploy(App("threads", [Counter, Threaded]))
        yield manager


async def test_a_thread_calls_and_reads_without_awaiting(manager: ManagerClient) -> None:
    counter = manager.handle(Counter, "c").sync

    def script() -> tuple[int, list[int], bool]:
        numbers: Generator[int] = counter.up_to(1000)
        first = [next(numbers) for _ in range(3)]
        numbers.close()
        return counter.add(2, 3), first, counter.was_closed()

    assert await asyncio.to_thread(script) == (5, [0, 1, 2], True)
    assert await asyncio.to_thread(lambda: list(counter.up_to(5))) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="on purpose"):
        await asyncio.to_thread(counter.fail)
    assert repr(counter) == "Handle(counter/c).sync"


async def test_a_handlers_thread_calls_other_agents(manager: ManagerClient) -> None:
    total = await manager.handle(Threaded, "t").sum_in_a_thread([1, 2, 3])
    assert total == (6, True)


async def test_a_handlers_thread_inherits_its_deadline(manager: ManagerClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await manager.handle(Threaded, "t").with_timeout(0.3).wait_in_a_thread()
    # The call from the thread has ended too: its agent is free again.
    assert await manager.handle(Counter, "c").add(1, 1) == 2


async def test_on_the_event_loop_it_is_refused_with_what_to_do(manager: ManagerClient) -> None:
    with pytest.raises(ConfigurationError, match="await the handle's method"):
        manager.handle(Counter, "c").sync.add(1, 2)
    with pytest.raises(ConfigurationError, match="run_sync"):
        await manager.handle(Threaded, "t").block_the_loop()


def test_a_call_by_what_is_no_method_says_how_to_do_it() -> None:
    with LocalRuntime() as manager:
        manager.deploy(App("sync", [Counter]))
        no_method: Any = "add"
        with pytest.raises(ConfigurationError, match="call_by_name"):
            manager.handle(Counter, "c").sync.call(no_method, 1, 2)
