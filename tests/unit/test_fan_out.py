"""Doing the same with many, and one thing after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    DeadlineExceeded,
    HostDied,
    PayloadError,
)
from agentray import action as as_action
from agentray.patterns import Pipeline, gather
from agentray.testing import LocalRuntime, ManualClock, run


class Counting:
    """A call that knows how many of it are under way."""

    def __init__(self) -> None:
        self.now = self.most = self.begun = self.cancelled = 0

    async def __call__(self, item: int) -> int:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(1 + item % 3)
            if item == 7:
                raise ValueError("seven")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        return item * 10


class Doubler(Agent):
    options = AgentOptions(concurrency=None)  # what hangs holds nothing back that comes after it

    @as_action
    async def double(self, value: int) -> int:
        if value == 7:
            raise ValueError("seven")
        if value == 8:
            await asyncio.Event().wait()
        return 2 * value

    @as_action
    async def numbers(self, value: int) -> AsyncIterator[int]:
        yield value


def test_results_stand_in_the_order_of_the_items_and_few_run_at_once() -> None:
    async def test() -> None:
        call = Counting()
        assert await gather([1, 2, 3, 4, 5, 6], call, limit=2) == [10, 20, 30, 40, 50, 60]
        assert call.most == 2
        assert await gather([], call) == []
        assert await gather(iter([3]), call) == [30]

    run(test())


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    async def test() -> None:
        with pytest.raises(ValueError, match="seven"):
            await gather(items(), Counting(), limit=3)
        assert len(taken) < 20

    run(test())


def test_the_first_error_is_raised_when_all_others_have_ended() -> None:
    async def test() -> None:
        call = Counting()
        with pytest.raises(ValueError, match="seven") as caught:
            await gather([7, 2, 5, 1], call)
        assert not isinstance(caught.value, ExceptionGroup)
        assert (call.now, call.begun, call.cancelled) == (0, 4, 2)

    run(test())


def test_errors_can_be_collected_in_the_places_of_their_items() -> None:
    async def test() -> None:
        results = await gather([1, 7, 2], Counting(), on_error="collect")
        assert (results[0], results[2]) == (10, 20)
        assert isinstance(results[1], ValueError)

    run(test())


def test_each_call_has_its_deadline() -> None:
    async def call(item: float) -> float:
        await asyncio.sleep(item)
        if item == 0.5:
            raise TimeoutError("its own")
        return item

    async def test() -> None:
        results = await gather([1, 100, 2], call, timeout=10, on_error="collect")
        assert isinstance(results[1], DeadlineExceeded)
        assert "Item 1 (100)" in str(results[1])
        assert (results[0], results[2]) == (1, 2)
        with pytest.raises(TimeoutError, match="its own"):
            await gather([0.5], call, timeout=10)

    run(test())


def test_whoever_is_cancelled_leaves_nothing_behind() -> None:
    async def test() -> None:
        call = Counting()
        task = asyncio.create_task(gather(range(1, 6), call))
        await ManualClock().advance(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (call.now, call.cancelled) == (0, 5)

    run(test())


def test_an_iterator_that_fails_and_a_wrong_limit_are_told() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    async def test() -> None:
        with pytest.raises(LookupError, match="no more"):
            await gather(items(), Counting())
        with pytest.raises(ConfigurationError, match="limit=0"):
            await gather([1], Counting(), limit=0)
        with pytest.raises(ConfigurationError, match="'zz'"):
            await gather([1], Counting(), on_error="zz")  # type: ignore[call-overload]

    run(test())


def in_a_cluster(test: Callable[..., Awaitable[None]]) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("doublers", [Doubler]))
            await test(manager, runtime)

    run(whole())


def test_agents_are_called_through_their_handles() -> None:
    async def test(manager: Any, runtime: LocalRuntime) -> None:
        handles = [manager.handle(Doubler, str(n)) for n in range(100)]
        assert await gather(handles, lambda h: h.double(int(h.id.key) + 100), limit=10) == [
            2 * (n + 100) for n in range(100)
        ]
        victim = runtime.host_of(handles[0].id)
        assert victim is not None
        hanging = asyncio.create_task(
            gather(handles, lambda h: h.double(8), limit=100, on_error="collect", timeout=5)
        )
        await ManualClock().advance(1)
        await runtime.kill_host(victim)
        results = await hanging
        assert {type(result) for result in results} == {HostDied, DeadlineExceeded}

    in_a_cluster(test)


# Pipelines


async def plus_one(value: int) -> int:
    await asyncio.sleep(1)
    return value + 1


def test_what_one_stage_returns_the_next_one_gets() -> None:
    async def test(manager: Any, _: LocalRuntime) -> None:
        double = manager.handle(Doubler, "d").double
        pipeline = Pipeline(len, plus_one, double, Pipeline(str, name="inner"))
        assert await pipeline("abc") == "8"
        assert await pipeline.map(["", "a", "abcd"]) == ["2", "4", "10"]
        assert "double" in repr(pipeline)

    in_a_cluster(test)


def test_an_error_names_the_stage() -> None:
    async def test(manager: Any, _: LocalRuntime) -> None:
        pipeline = Pipeline(plus_one, manager.handle(Doubler, "d").double, name="sums")
        with pytest.raises(ValueError, match="seven") as caught:
            await pipeline(6)
        assert (
            caught.value.__notes__[-1] == "In stage 2 of 2 (<action double of doubler/d>) of sums."
        )
        results = await pipeline.map([1, 6, 7, 2], timeout=5, on_error="collect")
        assert results[::3] == [4, 6]
        assert [type(error) for error in results[1:3]] == [ValueError, DeadlineExceeded]

    in_a_cluster(test)


def test_stages_that_are_none_are_refused() -> None:
    async def test(manager: Any, _: LocalRuntime) -> None:
        doubler = manager.handle(Doubler, "d")
        with pytest.raises(PayloadError, match="yields"):
            await Pipeline(plus_one, doubler.numbers)(1)
        with pytest.raises(ConfigurationError, match="cannot be called"):
            Pipeline(plus_one, 3)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no stages"):
            Pipeline()

    in_a_cluster(test)
