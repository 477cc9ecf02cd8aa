"""Messages, replies and cancellations that come late, twice, or before what they are about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentMoved,
    AgentOptions,
    App,
    ConfigurationError,
    DeploymentStopped,
    action,
)
from agentray.context import Context
from agentray.protocol.codec import NO_ARGUMENTS
from agentray.protocol.envelope import Envelope, Frame, Kind, Packet, Reply, ReplyKind
from agentray.runtime.host import Host
from agentray.runtime.message import ScopedRequest
from agentray.runtime.outbox import Outbox, read_response
from agentray.runtime.ports import HostUnreachable
from agentray.runtime.scope import Scope
from agentray.testing import run
from tests.support.wires import Bench, bench_of


class Worker(Agent):
    """Does what the tests need, one thing at a time."""

    told = 0

    @action
    async def slow(self, cleaning_s: float = 0.0) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(cleaning_s)

    @action
    async def swallow(self) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "never mind"
        return "done"

    @action
    async def own_cancellation(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @action
    async def one(self) -> int:
        return 1

    @action
    async def note(self, text: str) -> str:
        Worker.told += 1
        return text


class Reader(Agent):
    """Yields."""

    options = AgentOptions(concurrency=None)

    @action
    async def count(self, end: int, pause_s: float = 0.0, data: bytes = b"") -> AsyncIterator[int]:
        del data
        for number in range(end):
            await asyncio.sleep(pause_s)
            yield number

    @action
    async def one(self) -> int:
        return 1


WORKER, READER = AgentId("worker", "k"), AgentId("reader", "k")
LARGE = b"x" * (5 << 20)


def on_a_bench(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = await bench_of(App("overtaken", [Worker, Reader]))
        await scenario(bench)
        await bench.close()

    run(whole())


def give(host: Host, outbox: Outbox, number: int, kind: Kind, name: str) -> None:
    payload = None if kind is Kind.CANCEL else NO_ARGUMENTS
    envelope = Envelope(number, int(kind), *WORKER, name, payload)
    host.accept(envelope, outbox, host.now())


async def read_on(stream: AsyncIterator[int]) -> None:
    async for _ in stream:
        pass


def replies(outbox: Outbox) -> dict[int, ReplyKind]:
    _, taken = read_response(outbox.take())
    return {message_id: ReplyKind(kind) for message_id, kind, *_ in taken}


@pytest.mark.parametrize("first", ["slow", "swallow"])
def test_a_cancellation_that_comes_twice_or_is_kept_secret_hits_no_later_message(
    first: str,
) -> None:
    async def scenario(bench: Bench) -> None:
        outbox = Outbox(0.0)
        for number, name in enumerate((first, "own_cancellation", "one"), start=1):
            give(bench.host, outbox, number, Kind.CALL, name)
        await asyncio.sleep(1)
        for number in (4, 5):
            give(bench.host, outbox, number, Kind.CANCEL, "1")
        await asyncio.sleep(200)
        found = replies(outbox)
        assert found[2] is ReplyKind.ERROR, "a cancellation of its own is an error like any other"
        assert found[3] is ReplyKind.VALUE
        assert len(found) == 3

    on_a_bench(scenario)


def test_a_message_whose_cancellation_came_first_is_not_handled() -> None:
    async def scenario(bench: Bench) -> None:
        cancel = (2, int(Kind.CANCEL), *WORKER, "1", None, None)
        call = (1, int(Kind.CALL), *WORKER, "slow", NO_ARGUMENTS, None)
        await bench.host.deliver(Frame("link", 2, 0, 1, (), [cancel]).pack())
        response = await bench.host.deliver(Frame("link", 1, 0, 1, (), [call]).pack())
        assert [(i, ReplyKind(kind)) for i, kind, *_ in read_response(response)[1]] == [
            (1, ReplyKind.CANCELLED)
        ]

    on_a_bench(scenario)


def test_small_messages_do_not_overtake_a_large_one() -> None:
    async def scenario(bench: Bench) -> None:
        seen: list[bool] = []

        async def deliver(packet: Packet) -> Packet:
            if isinstance(packet, list):
                await asyncio.sleep(0.5)
            seen.append(isinstance(packet, list))
            return await bench.host.deliver(packet)

        bench.wire.on_deliver = deliver
        large = asyncio.create_task(
            bench.channel.call(WORKER, "note", ("x" * (5 << 20),), {}, timeout=60.0)
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert await bench.channel.call(WORKER, "note", ("small",), {}, timeout=60.0) == "small"
        assert len(await large) == 5 << 20
        assert seen[0], "the large one arrived first"

    on_a_bench(scenario)


def test_a_streams_end_waits_for_parts_that_it_overtook() -> None:
    async def scenario(bench: Bench) -> None:
        count = 0

        async def collect(packet: Packet) -> Packet:
            nonlocal count
            count += 1
            response = await bench.host.collect(packet)
            if count == 2:
                await asyncio.sleep(5)
                raise HostUnreachable("The response was lost.")
            return response

        bench.wire.on_collect = collect
        got: list[int] = []

        async def read() -> None:
            async for number in bench.channel.stream(READER, "count", (3, 1.0), {}, timeout=None):
                got.append(number)  # noqa: PERF401

        reading = asyncio.create_task(read())
        await asyncio.sleep(4.5)  # it has ended there
        assert await bench.channel.call(READER, "one", (), {}, timeout=5.0) == 1
        await asyncio.wait([reading], timeout=60)
        assert got == [0, 1, 2]
        assert reading.done()

    on_a_bench(scenario)


def test_a_stream_whose_agent_moves_is_not_begun_again_in_its_midst() -> None:
    async def scenario(bench: Bench) -> None:
        stream = bench.channel.stream(READER, "count", (1000, 1.0), {}, timeout=None)
        assert [await anext(stream), await anext(stream)] == [0, 1]
        for agent in bench.host.residents:
            bench.host.residents.leave(agent, 0.0)  # longer than its grace
        await bench.host.residents.until_left(lambda _: True)
        with pytest.raises(AgentMoved):
            await read_on(stream)

    on_a_bench(scenario)


def test_a_host_that_heard_nothing_of_a_reader_tells_it_so_when_it_comes_back() -> None:
    async def scenario(bench: Bench) -> None:
        stream = bench.channel.stream(READER, "count", (10**6, 1.0), {}, timeout=None)
        assert await anext(stream) == 0
        (outbox,) = bench.host._outboxes.values()  # pyright: ignore[reportPrivateUsage]
        (turn,) = outbox.active.values()
        bench.host.cancel(turn)  # as the sweep does
        with pytest.raises(AgentMoved, match="heard nothing of the reader"):
            await read_on(stream)

    on_a_bench(scenario)


def test_a_control_message_that_is_cancelled_before_it_began_is_answered() -> None:
    async def scenario(bench: Bench) -> None:
        outbox = Outbox(0.0)
        give(bench.host, outbox, 1, Kind.INSPECT, "stats")
        give(bench.host, outbox, 2, Kind.CANCEL, "1")
        await asyncio.sleep(1)
        assert replies(outbox) == {1: ReplyKind.CANCELLED}
        assert outbox.disposable

    on_a_bench(scenario)


def test_a_request_that_fails_in_an_unknown_way_fails_its_messages_and_not_the_link() -> None:
    async def scenario(bench: Bench) -> None:
        deliver = bench.wire.on_deliver

        async def broken(_packet: Packet) -> Packet:
            bench.wire.on_deliver = deliver
            raise RuntimeError("nobody thought of this")

        for _ in range(5):
            bench.wire.on_deliver = broken
            with pytest.raises(Exception, match="nobody thought of this"):
                await bench.channel.call(WORKER, "one", (), {}, timeout=None)
        assert await bench.channel.call(WORKER, "one", (), {}, timeout=5.0) == 1

    on_a_bench(scenario)


def test_a_key_that_is_no_text_fails_alone() -> None:
    async def scenario(bench: Bench) -> None:
        keys = ("one", "\udcff", "two")
        calls = [
            asyncio.create_task(
                bench.channel.call(AgentId("worker", key), "one", (), {}, timeout=60.0)
            )
            for key in keys
        ]
        await asyncio.wait(calls, timeout=120)
        assert calls[0].result() == calls[2].result() == 1
        assert isinstance(calls[1].exception(), UnicodeEncodeError)
        with pytest.raises(ConfigurationError, match="half a pair"):
            AgentId.parse("worker/\udcff")

    on_a_bench(scenario)


def test_a_value_that_came_twice_holds_its_run_once() -> None:
    async def scenario(bench: Bench) -> None:
        done: list[object] = []
        context = Context(WORKER, bench.host)
        context.scope = Scope(done.append)
        context.scope.hold()
        future = asyncio.get_running_loop().create_future()
        message = ScopedRequest(int(Kind.CALL), WORKER, "one", b"", future, context)
        for number in (1, 2):  # from a host that died, and from the next
            message.on_reply(Reply(number, ReplyKind.OPEN, NO_ARGUMENTS))
        message.on_reply(Reply(2, ReplyKind.SETTLED))
        context.scope.release()
        assert len(done) == 1

    on_a_bench(scenario)


def test_a_told_message_is_replied_to_once() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(100):
            await bench.channel.tell(WORKER, "note", ("x" * 1000,), {})
        await asyncio.sleep(1)
        (outbox,) = bench.host._outboxes.values()  # pyright: ignore[reportPrivateUsage]
        _, left = read_response(outbox.take())
        assert [fields for fields in left if fields[2] is not None] == []
        assert not outbox.active

    on_a_bench(scenario)


def test_closing_a_stream_ends_the_task_that_reads_it() -> None:
    async def scenario(bench: Bench) -> None:
        stream: Any = bench.channel.stream(READER, "count", (10, 100.0), {}, timeout=None)

        async def read() -> list[int]:
            return [number async for number in stream]

        reading = asyncio.create_task(read())
        await asyncio.sleep(1)
        await stream.aclose()
        await asyncio.wait([reading], timeout=10)
        assert reading.result() == []

    on_a_bench(scenario)


def test_a_way_that_was_remembered_does_not_lead_to_a_stopped_app() -> None:
    async def scenario(bench: Bench) -> None:
        bench.channel.update(bench.snapshot(2, stopped=True))
        for _ in range(2):
            with pytest.raises(DeploymentStopped):
                await bench.channel.call(WORKER, "one", (), {}, timeout=5.0)

    on_a_bench(scenario)
