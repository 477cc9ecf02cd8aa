"""An event for several agents of one host: one message, whose copies end each by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray import Agent, AgentId, App, Event, action, on
from agentray.protocol.codec import encode, encode_error
from agentray.protocol.envelope import Frame, Kind, Outcome, Packet, Reply, ReplyKind
from agentray.protocol.snapshot import HostRef
from agentray.runtime.event_message import EventMessage
from agentray.runtime.link import Link
from agentray.runtime.message import Message
from agentray.runtime.outbox import Outbox
from agentray.runtime.ports import HostGone
from agentray.runtime.scope import Scope
from agentray.runtime.tasks import TaskSet
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

HOST = HostRef("host-1", "agentray-host-1")


class Announced(Event):
    text: str = ""


class Wire:
    """Keeps what was delivered until the test answers it."""

    def __init__(self) -> None:
        self.outbox = Outbox(now=0.0)
        self.frames: list[Frame] = []
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        pass

    def die(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    async def _until_gone(self, work: Awaitable[Packet]) -> Packet:
        answer = asyncio.ensure_future(work)  # noqa: TID251 - awaited below
        await asyncio.wait([answer, self._gone], return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            answer.cancel()
            raise HostGone("It was killed.")
        return answer.result()

    async def deliver(self, packet: Packet) -> Packet:
        request = Frame.unpack(packet)
        self.frames.append(request)
        self.outbox.acknowledged(request)
        return self.outbox.take()

    async def collect(self, packet: Packet) -> Packet:
        request = Frame.unpack(packet)
        self.outbox.acknowledged(request)
        await self._until_gone(self._ready(request.number))
        return self.outbox.take()

    async def _ready(self, number: int) -> Packet:
        await self.outbox.until_ready(number)
        return b""


class Bench:
    """A link, and what comes back from it."""

    def __init__(self, copies: int) -> None:
        self.done: list[Outcome] = []
        self.again: list[Message] = []  # what goes another way
        self.wire = Wire()
        self.tasks = TaskSet("the test")
        self.link = Link(
            HOST,
            self.wire,
            self.tasks,
            on_moved=lambda message, _: self.again.append(message),
            on_gone=lambda message, _, __: self.again.append(message),
        )
        self.scope = Scope()
        self.scope.on_done(self.done.append)
        targets = [AgentId("listener", str(number)) for number in range(copies)]
        event = Announced()
        self.message = EventMessage(targets, event, event, self.scope, answers=True)
        self.message.payload = encode(Announced())
        self.scope.sent(self.message)

    async def send(self) -> list[int]:
        """Send the event; return the numbers of its copies."""
        self.link.send(self.message)
        await self.settle()
        (fields,) = self.wire.frames[0].messages
        assert fields[0] == self.message.id
        return [envelope.id for envelope in self.wire.frames[0].envelopes()]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def on_a_bench(copies: int, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = Bench(copies)
        await scenario(bench)
        bench.wire.die()
        await bench.settle()
        await bench.tasks.close()

    run(whole())


@settings(deadline=None, max_examples=60)
@given(
    fates=st.lists(
        st.sampled_from(["done", "outcome", "failed", "moved", "open"]), min_size=1, max_size=6
    ),
    order=st.randoms(use_true_random=False),
)
def test_each_copy_ends_by_itself_and_the_event_when_all_have(
    fates: list[str], order: random.Random
) -> None:
    async def scenario(bench: Bench) -> None:
        numbers = await bench.send()
        fate_of = dict(zip(numbers, fates, strict=True))
        order.shuffle(numbers)
        outbox = bench.wire.outbox
        for number in numbers:
            match fate_of[number]:
                case "done":
                    outbox.reply(number, ReplyKind.VALUE)
                case "outcome":
                    outbox.reply(number, ReplyKind.VALUE, None, Outcome(spans=((number,),)))
                case "failed":
                    outbox.reply(number, ReplyKind.ERROR, encode_error(ValueError("no")))
                case "moved":
                    outbox.reply(number, ReplyKind.MOVED)
                case _:
                    continue  # its handler goes on while the host dies
            await bench.settle()
        bench.wire.die()
        await bench.settle()
        left = [name for name in fates if name in ("moved", "open")]
        assert len(bench.again) == len(left)
        assert not bench.done if left else len(bench.done) == 1
        for message in bench.again:
            assert message.copies == 1
            message.on_reply(Reply(0, ReplyKind.ERROR, encode_error(KeyError("there"))))
        (outcome,) = bench.done
        first = min(fate_of)
        expected = {f"listener/{n - first}": fate_of[n] for n in fate_of}
        failed = {name for name, fate in expected.items() if fate in ("failed", "moved", "open")}
        assert {error.agent for error in outcome.errors} == failed
        assert len(outcome.errors) == len(failed)
        assert len(outcome.spans) == fates.count("outcome")

    on_a_bench(len(fates), scenario)


def test_an_event_that_has_not_left_is_given_up_with_all_of_its_copies() -> None:
    async def scenario(bench: Bench) -> None:
        bench.link.send(bench.message)

        class Ways:
            def cancel(self, message: Message) -> bool:
                message.closed = True
                return bench.link.cancel(message)

        bench.scope.cancel(Ways())  # pyright: ignore[reportArgumentType] # as much of a channel
        assert len(bench.done) == 1
        await bench.settle()
        assert bench.wire.frames == []
        assert not list(bench.link.open_messages())

    on_a_bench(3, scenario)


def test_copies_part_before_they_have_left_where_the_way_is_blocked() -> None:
    async def scenario(bench: Bench) -> None:
        parted = [bench.message.alone(number) for number in bench.message.numbers]
        assert [message.target.key for message in parted] == ["0", "1", "2"]
        assert not any(message.sent or message.closed for message in parted)
        assert not bench.done
        for message in parted:
            message.on_value(None)
        assert len(bench.done) == 1

    on_a_bench(3, scenario)


def test_cancelling_an_event_cancels_each_copy_that_is_under_way() -> None:
    async def scenario(bench: Bench) -> None:
        first, second, third = await bench.send()
        bench.wire.outbox.reply(second, ReplyKind.VALUE)
        await bench.settle()
        assert bench.link.cancel(bench.message)
        await bench.settle()
        told = [e for frame in bench.wire.frames[1:] for e in frame.envelopes()]
        assert {e.kind for e in told} == {Kind.CANCEL}
        assert sorted(int(e.name) for e in told) == [first, third]
        for number in (third, first):
            assert not bench.done
            bench.wire.outbox.reply(number, ReplyKind.CANCELLED)
            await bench.settle()
        assert len(bench.done) == 1

    on_a_bench(3, scenario)


# The whole way


class Speaker(Agent):
    @action
    async def speak(self) -> None:
        self.context.publish(Announced(text="hear"))


class Listener(Agent):
    heard: dict[str, int] = {}  # noqa: RUF012 - of all instances, on purpose

    async def hear(self, announced: Announced) -> None:
        del announced
        if self.id.key == "3":
            raise ValueError("it will not")
        self.heard[self.id.key] = self.heard.get(self.id.key, 0) + 1


def _listener(number: int) -> type[Agent]:
    async def hear(self: Listener, announced: Announced) -> None:
        await Listener.hear(self, announced)

    hear.__name__ = "take"
    body = {"take": on(Announced, key=f"key:{number}")(hear), "__module__": __name__}
    return type(f"Listener{number}", (Listener,), body)


@pytest.mark.parametrize("hosts", [1, 3])
async def test_recipients_of_one_message_do_not_share_a_failure(hosts: int) -> None:
    Listener.heard.clear()
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(App("hall", [Speaker, *(_listener(n) for n in range(8))]))
        tried = await manager.dispatch(Announced(), on_error="collect")
        await tried.wait()
        (error,) = tried.errors
        assert (error.agent or "").endswith("/3")
        await manager.handle(Speaker, "s").speak()

        async def heard_twice() -> bool:
            return Listener.heard == {str(n): 2 for n in range(8) if n != 3}

        await eventually_async(heard_twice)
