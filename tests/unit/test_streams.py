"""Streams: what an action yields, as its caller reads it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any, assert_type

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentId,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    Handle,
    HostDied,
    ManagerClient,
    PayloadError,
    Prompt,
    TerminateEvent,
    UnknownAction,
    UnknownAgentType,
    action,
    on,
)
from agentray.runtime.channel import Channel
from agentray.runtime.streams import MAX_PART, WINDOW_PARTS
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async
from tests.support.virtual_time import run


class Counted(BaseModel):
    streams: int = 0


class Words(Agent):
    state: Counted

    def __init__(self) -> None:
        self.yielded = 0
        self.ended: list[str] = []

    @action
    async def words(self, text: str, pause_s: float = 0.0) -> AsyncIterator[str]:
        for word in text.split():
            yield word
            await asyncio.sleep(pause_s)
        self.state.streams += 1

    @action
    def numbers(self, count: int) -> Iterator[int]:
        yield from range(count)

    @action(idempotent=True)
    async def slow_start(self) -> AsyncIterator[str]:
        await asyncio.sleep(1.0)
        yield "begun"

    @action
    async def endless(self) -> AsyncIterator[int]:
        try:
            while True:
                self.yielded += 1
                yield self.yielded
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            self.ended.append("closed")

    @action
    async def breaking(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        self.state.streams = 100
        raise ValueError("no more")

    @action
    async def unserialisable(self) -> AsyncIterator[object]:
        yield 1
        yield threading.Lock()

    @action
    async def streams(self) -> int:
        return self.state.streams

    @action
    async def seen(self) -> tuple[int, list[str]]:
        return self.yielded, self.ended

    @action
    async def all_of(self, other: str, text: str) -> list[str]:
        """Reads a stream of another agent."""
        handle = self.handle(Words, other)
        return [word async for word in handle.stream(Words.words, text)]


class Spoken(Event):
    word: str


class Said(TerminateEvent):
    words: list[str]


class Speaker(Agent):
    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Said:
        parrot = self.handle(Parrot, "p")
        return Said(words=[word async for word in parrot.repeat(prompt.text)])


class Parrot(Agent):
    heard = 0

    @action
    async def repeat(self, text: str) -> AsyncIterator[str]:
        for word in text.split():
            self.context.publish(Spoken(word=word))
            yield word

    @on(Spoken, key="key:ear")
    async def hear(self, _spoken: Spoken) -> None:
        await asyncio.sleep(0.1)
        Parrot.heard += 1


app = App("streams", [Words, Speaker, Parrot], entry=Speaker)


async def read_all(stream: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """Return what came, and what came instead of the rest."""
    read: list[Any] = []
    try:
        async for item in stream:
            read.append(item)  # noqa: PERF401 - kept when it raises
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return read, error
    return read, None


def in_a_cluster(scenario: Any, *, hosts: int = 2) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=hosts)
        async with runtime as manager:
            await manager.deploy(app)
            await scenario(runtime, manager)

    run(whole())


def test_a_stream_is_read_in_order_to_its_end_by_attribute_and_typed() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        assert [word async for word in handle.words("one two three")] == ["one", "two", "three"]
        typed = handle.stream(Words.words, "four five")
        assert_type(typed, AsyncIterator[str])
        assert [word async for word in typed] == ["four", "five"]
        assert [n async for n in handle.stream(Words.numbers, 5)] == [0, 1, 2, 3, 4]
        assert [n async for n in handle.numbers(0)] == []
        assert await handle.streams() == 2, "its state was committed"

    in_a_cluster(scenario)


def test_items_come_while_the_action_is_still_at_work() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        times: list[float] = []
        async for _word in manager.handle(Words, "a").words("one two three", 10.0):
            times.append(asyncio.get_running_loop().time())  # noqa: PERF401 - that is the point
        assert [round(after - before) for before, after in pairwise(times)] == [10, 10]

    in_a_cluster(scenario)


def test_a_long_stream_arrives_whole_and_its_writer_is_never_far_ahead() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        count = 3 * MAX_PART * WINDOW_PARTS + 7
        assert [n async for n in handle.numbers(count)] == list(range(count))

        endless = handle.endless()
        for expected in range(1, 4):
            assert await anext(endless) == expected
        await asyncio.sleep(5.0)  # the reader does nothing
        await endless.aclose()
        yielded, ended = await handle.seen()
        assert yielded <= MAX_PART * (WINDOW_PARTS + 1)
        assert ended[-1] == "closed"

    in_a_cluster(scenario)


def test_leaving_a_stream_cancels_the_action() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        async for _number in handle.endless():
            break

        async def closed() -> bool:
            return (await handle.seen())[1][1:] == ["closed"]

        await eventually_async(closed)

        async def read_for_ever() -> None:
            async for _ in handle.words("one two", 1000.0):
                pass

        reading = asyncio.create_task(read_for_ever())
        await asyncio.sleep(1.0)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert await handle.streams() == 0, "the agent is free again"

    in_a_cluster(scenario)


def test_after_it_was_closed_a_stream_has_no_more_items() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        async with manager.handle(Words, "a").endless() as endless:
            assert await anext(endless) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(endless)
        await endless.aclose()

    in_a_cluster(scenario)


@pytest.mark.parametrize("after", [0, 3, 2 * MAX_PART])
def test_what_the_action_raises_comes_after_what_it_yielded(after: int) -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        read, error = await read_all(handle.breaking(after))
        assert read == list(range(after))
        assert repr(error) == "ValueError('no more')"
        assert await handle.streams() == 0, "a stream that failed changed nothing"

    in_a_cluster(scenario)


def test_an_item_that_cannot_be_serialised_ends_the_stream_with_an_error_that_says_so() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        with pytest.raises(PayloadError, match=r"unserialisable\(\).*lock"):
            async for _item in manager.handle(Words, "a").unserialisable():
                pass

    in_a_cluster(scenario)


def test_calling_a_stream_and_streaming_a_call_are_errors_that_say_what_to_do() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        with pytest.raises(ConfigurationError, match="async for"):
            await handle.call_by_name("words", ("one",))
        with pytest.raises(ConfigurationError, match="await it"):
            await anext(handle.caller.stream(handle.id, "streams", (), {}, timeout=5.0))
        with pytest.raises(UnknownAction):
            await anext(handle.caller.stream(handle.id, "nothing", (), {}, timeout=5.0))

    in_a_cluster(scenario)


def test_the_timeout_is_of_the_wait_for_the_next_item() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        patient = manager.handle(Words, "a").with_timeout(15.0)
        assert [w async for w in patient.words("one two three", 10.0)] == ["one", "two", "three"]
        read, error = await read_all(patient.with_timeout(5.0).words("one two", 10.0))
        assert read == ["one"]
        assert isinstance(error, DeadlineExceeded)
        assert "words did not reply within 5 s" in str(error)
        assert await patient.streams() == 1

    in_a_cluster(scenario)


def test_a_host_that_dies_fails_its_streams_and_begins_idempotent_ones_again() -> None:
    async def scenario(runtime: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        endless = handle.endless()
        assert await anext(endless) == 1
        starting = asyncio.create_task(anext(manager.handle(Words, "a2").slow_start()))
        await asyncio.sleep(0.1)
        for agent in ("a", "a2"):
            host = runtime.host_of(AgentId("words", agent))
            if host in runtime.hosts:
                await runtime.kill_host(host)
        with pytest.raises(HostDied):
            async for _ in endless:
                pass
        assert await starting == "begun"

    in_a_cluster(scenario)


def test_an_agent_reads_the_stream_of_another_one() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        for key in map(str, range(8)):  # some on the same host, some not
            words = await manager.handle(Words, key).all_of(f"other-{key}", "one two")
            assert words == ["one", "two"]

    in_a_cluster(scenario)


def test_what_a_stream_publishes_belongs_to_the_run() -> None:
    async def scenario(_: LocalRuntime, manager: ManagerClient) -> None:
        Parrot.heard = 0
        ended = await manager.prompt("one two three", timeout=30.0)
        assert ended.result == {"words": ["one", "two", "three"]}
        assert Parrot.heard == 3, "the run ended before all that it had set off"

    in_a_cluster(scenario)


def test_a_stream_whose_reader_has_died_gives_its_agent_free() -> None:
    async def scenario(runtime: LocalRuntime, manager: ManagerClient) -> None:
        handle = manager.handle(Words, "a")
        other = Channel(runtime.network)
        other.update(manager._channel.snapshot)  # pyright: ignore[reportPrivateUsage]
        endless = other.stream(AgentId("words", "a"), "endless", (), {}, timeout=None)
        assert await anext(endless) == 1
        await other._tasks.close()  # pyright: ignore[reportPrivateUsage] # as its process's end does
        assert await handle.with_timeout(300.0).streams() == 0

    in_a_cluster(scenario, hosts=1)


def test_what_no_app_has_is_told_alike_to_who_awaits_it_and_who_reads_it() -> None:
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            nobody: Handle[Any] = manager.handle("nobody", "x")
            with pytest.raises(UnknownAgentType, match="nobody"):
                async for _ in nobody.words("a b"):
                    pass
            with pytest.raises(UnknownAgentType, match="nobody"):
                await nobody.words("a b")
            with pytest.raises(UnknownAgentType, match="nobody"):
                await asyncio.create_task(nobody.words("a b"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.gather(nobody.words("a b"))

    run(scenario())


def test_a_type_that_is_deployed_while_it_is_asked_for_streams_all_the_same() -> None:
    async def scenario() -> None:
        async with LocalRuntime() as manager:
            words = manager.handle(Words, "w")
            stream, call = words.words("a b"), words.seen()  # when its type is not known yet
            await manager.deploy(App("words", [Words]))
            assert [word async for word in stream] == ["a", "b"]
            assert await call == (0, [])

    run(scenario())
