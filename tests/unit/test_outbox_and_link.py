"""The link and its outbox over a wire that loses requests and responses: all arrives once.

All of it in virtual time, so that the link's patience costs none.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray import Agent, AgentId, AgentOptions, App, action
from agentray.config import BATCH, BatchLimits
from agentray.core.deaths import Death, DeathCause
from agentray.ids import SLOTS
from agentray.protocol.codec import decode, encode, encode_arguments, error_of
from agentray.protocol.envelope import Envelope, Frame, Kind, Packet, Reply, ReplyKind
from agentray.protocol.snapshot import HostRef, PoolView, Snapshot, TypeView
from agentray.runtime.host import Host
from agentray.runtime.link import HALVED, MAX_OPEN, WINDOW, Link
from agentray.runtime.message import Message
from agentray.runtime.outbox import COLLECT_S, NOTHING, Outbox, read_response
from agentray.runtime.packing import pack_app
from agentray.runtime.ports import HostGone, HostPort, HostUnreachable
from agentray.runtime.tasks import TaskSet
from agentray.store.memory import MemoryStore
from agentray.testing import run

HOST = HostRef("host-1", "agentray-host-1")


def number_and_ids(response: Packet) -> tuple[int, list[int]]:
    number, replies = read_response(response)
    return number, [reply if isinstance(reply, int) else reply[0] for reply in replies]


def batch(number: int, *, attempt: int = 0, floor: int = 1, acks: tuple[int, ...] = ()) -> Frame:
    """A request without messages, as the outbox sees it."""
    return Frame("link", number, attempt, floor, acks)


# The outbox: kept until it is acknowledged


def test_a_response_that_was_lost_is_sent_again_with_what_came_since() -> None:
    outbox = Outbox(now=0.0)
    outbox.reply(1, ReplyKind.VALUE, b"one")
    assert number_and_ids(outbox.take()) == (1, [1])
    outbox.reply(2, ReplyKind.VALUE, b"two")
    outbox.acknowledged(batch(1, attempt=1))
    number, replies = read_response(outbox.take())
    assert number == 2
    assert {message_id: payload for message_id, _, payload, _ in replies} == {1: b"one", 2: b"two"}


def test_what_was_acknowledged_is_never_sent_again() -> None:
    outbox = Outbox(now=0.0)
    for message_id in (1, 2, 3):
        outbox.reply(message_id, ReplyKind.VALUE)
        outbox.take()
    outbox.acknowledged(batch(1, attempt=1, acks=(1, 3)))
    assert number_and_ids(outbox.take()) == (4, [2])
    outbox.acknowledged(batch(1, attempt=2, acks=(4,)))
    assert number_and_ids(outbox.take()) == (5, [])


def test_without_a_loss_nothing_is_repeated() -> None:
    outbox = Outbox(now=0.0)
    outbox.reply(1, ReplyKind.VALUE)
    outbox.take()
    outbox.acknowledged(batch(1))
    assert number_and_ids(outbox.take()) == (2, [])


def test_a_batch_that_comes_twice_is_new_once() -> None:
    outbox = Outbox(now=0.0)
    requests = [batch(1), batch(2), batch(1, attempt=1), batch(3), batch(3, attempt=1)]
    assert [outbox.is_new(request) for request in requests] == [True, True, False, True, False]


def test_a_batch_that_its_repetition_has_overtaken_is_neither_new_nor_answered() -> None:
    outbox = Outbox(now=0.0)
    assert outbox.is_new(batch(1, attempt=1))
    assert outbox.is_new(batch(1)) is None
    assert outbox.is_new(batch(1, attempt=2)) is False


def test_a_batch_that_comes_when_its_number_is_forgotten_is_not_new() -> None:
    outbox = Outbox(now=0.0)
    outbox.is_new(batch(1, attempt=1))
    outbox.is_new(batch(2, floor=2))  # the first one is answered
    assert outbox.is_new(batch(1)) is None


def test_an_outbox_remembers_only_the_batches_that_may_come_again() -> None:
    outbox = Outbox(now=0.0)
    for number in range(1, 1000):
        outbox.is_new(batch(number, floor=max(1, number - 1)))
    assert len(outbox._batches) == WINDOW  # pyright: ignore[reportPrivateUsage]


def test_a_newer_collector_ends_the_older_one_and_gets_the_replies() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        older = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(0)
        newer = asyncio.create_task(outbox.until_ready(2))
        assert not await older
        assert not await outbox.until_ready(1), "also when it comes late"
        outbox.reply(1, ReplyKind.VALUE)
        assert await newer
        assert number_and_ids(outbox.take()) == (1, [1])

    run(scenario())


def test_a_collector_without_replies_is_sent_away_so_that_its_sender_shows_that_it_lives() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        assert not await outbox.until_ready(1)
        assert asyncio.get_running_loop().time() == COLLECT_S
        assert outbox.disposable
        outbox.reply(1, ReplyKind.VALUE)
        assert await outbox.until_ready(2)

    run(scenario())


def test_a_newer_collector_survives_the_end_of_the_older_one() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        older = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(0)
        newer = asyncio.create_task(outbox.until_ready(2))
        await asyncio.sleep(0)
        older.cancel()
        await asyncio.wait([older])
        outbox.reply(1, ReplyKind.VALUE)
        assert await newer

    run(scenario())


def test_an_older_collector_that_was_just_woken_does_not_take_the_newer_ones_place() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        older = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(0)
        outbox.reply(1, ReplyKind.VALUE)
        outbox.take()  # by a delivery
        newer = asyncio.create_task(outbox.until_ready(2))
        assert not await older
        outbox.reply(2, ReplyKind.VALUE)
        assert await newer

    run(scenario())


def test_a_delivery_that_is_overtaken_in_its_grace_leaves_its_replies_to_the_collector() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        outbox.is_new(batch(1))
        delivery = outbox.begin({1, 2})
        collector = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(0)
        outbox.is_new(batch(1, attempt=1))
        outbox.reply(1, ReplyKind.VALUE)
        await outbox.after_grace(delivery)
        assert outbox.answer(batch(1)) == NOTHING
        assert await collector
        assert number_and_ids(outbox.take()) == (1, [1])

    run(scenario())


def test_a_delivery_takes_its_replies_along_as_soon_as_the_last_one_is_there() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        delivery = outbox.begin({1, 2})
        loop = asyncio.get_running_loop()
        start = loop.time()
        outbox.reply(1, ReplyKind.VALUE)
        loop.call_later(0.0005, outbox.reply, 2, ReplyKind.VALUE)
        await outbox.after_grace(delivery)
        assert loop.time() - start < 0.001
        assert number_and_ids(outbox.take()) == (1, [1, 2])

    run(scenario())


def test_what_hurries_leaves_with_the_delivery_that_waits_for_something_else() -> None:
    async def main() -> tuple[float, list[int]]:
        outbox = Outbox(now=0.0)
        assert outbox.is_new(batch(1))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answering = asyncio.create_task(outbox.after_grace(outbox.begin({1, 2})))
        await asyncio.sleep(0)
        outbox.reply(2, ReplyKind.VALUE)
        outbox.hurry()
        await answering
        return loop.time() - begun, number_and_ids(outbox.answer(batch(1)))[1]

    assert run(main()) == (0.0, [2])


def test_a_delivery_does_not_wait_for_slow_replies_which_a_collector_gets() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        outbox.reply(1, ReplyKind.VALUE)
        await outbox.after_grace(outbox.begin({1, 2}))
        assert number_and_ids(outbox.take()) == (1, [1])
        collector = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(15.0)
        assert not collector.done()
        outbox.reply(2, ReplyKind.VALUE)
        outbox.reply(3, ReplyKind.VALUE)
        await collector
        assert number_and_ids(outbox.take()) == (2, [2, 3])

    run(scenario())


def test_an_outbox_is_disposable_when_nothing_is_under_way() -> None:
    async def scenario() -> None:
        outbox = Outbox(now=0.0)
        assert outbox.disposable
        delivery = outbox.begin({1})
        assert not outbox.disposable
        await outbox.after_grace(delivery)
        collector = asyncio.create_task(outbox.until_ready(1))
        await asyncio.sleep(0)
        assert not outbox.disposable
        outbox.reply(1, ReplyKind.VALUE)
        await collector
        outbox.active[2] = "a turn"
        assert not outbox.disposable
        del outbox.active[2]
        assert outbox.disposable

    run(scenario())


# A real host behind a wire that loses things


class Worker(Agent):
    options = AgentOptions(concurrency=None)
    handled: Counter[int] = Counter()  # noqa: RUF012 - of all instances, on purpose

    @action
    async def work(self, number: int, seconds: float) -> int:
        Worker.handled[number] += 1
        if seconds:
            await asyncio.sleep(seconds)
        if number % 7 == 6:
            raise ValueError(f"not {number}")
        return 2 * number


APP = App("links", [Worker])


class Nowhere:
    """Finds no other hosts: there is only one."""

    async def seat(self, agent: AgentId) -> Snapshot:
        raise AssertionError(f"{agent} is not isolated")

    async def about(self, agent: AgentId, what: str) -> None:
        raise AssertionError(f"{agent} is not isolated: {what}")

    async def let_out(self, agent: AgentId) -> bool:
        raise AssertionError(f"{agent} is not in quarantine.")

    def connect(self, host: HostRef) -> HostPort:
        raise AssertionError(f"Nobody should ask for {host.id}.")


async def make_host() -> Host:
    Worker.handled.clear()
    host = Host(HOST.id, MemoryStore(), Nowhere())
    await host.load({APP.name: encode(pack_app(APP))})
    snapshot = Snapshot(
        version=1,
        types={"worker": TypeView("worker", APP.name, "default", prompts=False)},
        pools={"default": PoolView("default", (HOST.id,) * SLOTS)},
        hosts={HOST.id: HOST},
    )
    await host.update(snapshot, {("default", slot): 1 for slot in range(SLOTS)})
    return host


class LossyWire:
    """The way to a host. By chance a request does not arrive, or its response does not return."""

    def __init__(
        self,
        host: Host,
        chance: random.Random,
        *,
        losses: int = 0,
        dies_after: int | None = None,
    ) -> None:
        self._host = host
        self._chance = chance
        self._losses = losses  # that are still to come; bounded, so that everything ends
        self._dies_after = dies_after
        self._requests = 0
        self._dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def dead(self) -> bool:
        """Whether the host has been killed."""
        return self._dead.done()

    def close(self) -> None:
        pass

    async def deliver(self, packet: Packet) -> Packet:
        return await self._pass(self._host.deliver, packet)

    async def collect(self, packet: Packet) -> Packet:
        return await self._pass(self._host.collect, packet)

    async def _pass(self, request: Callable[[Packet], Awaitable[Packet]], packet: Packet) -> Packet:
        self._requests += 1
        if self._requests == self._dies_after:
            self._dead.set_result(None)
        fate = self._fate()
        if fate == "request lost":
            raise HostUnreachable("The request was lost.")
        answering = asyncio.ensure_future(request(packet))  # noqa: TID251 - awaited below
        await asyncio.wait([answering, self._dead], return_when=asyncio.FIRST_COMPLETED)
        if self._dead.done():
            answering.cancel()
            raise HostGone("It was killed.")
        if fate == "response lost":
            raise HostUnreachable("The response was lost.")
        return await answering

    def _fate(self) -> str:
        if self._losses <= 0 or self._chance.random() < 0.5:
            return "arrives"
        self._losses -= 1
        return self._chance.choice(["request lost", "response lost"])


class Probe(Message):
    """A message that keeps all of its replies."""

    __slots__ = ("_sent", "number")

    def __init__(self, number: int, sent: Sent, target: AgentId, arguments: bytes) -> None:
        super().__init__(int(Kind.CALL), target, "work", arguments)
        self.number = number
        self._sent = sent

    def on_reply(self, reply: Reply) -> None:
        self._sent.replies[self.number].append(reply)
        self._sent.changed.set()


class Sent:
    """What became of the messages of a test."""

    def __init__(self) -> None:
        self.replies: dict[int, list[Reply]] = {}
        self.gone: dict[int, list[bool]] = {}
        self.reasons: set[str] = set()  # of those that are gone
        self.numbers: list[int] = []
        self.changed = asyncio.Event()

    def message(self, number: int, seconds: float = 0.0) -> Message:
        self.numbers.append(number)
        self.replies[number], self.gone[number] = [], []

        arguments = encode_arguments((number, seconds), {}, "work")
        target = AgentId("worker", f"k{number % 5}")
        return Probe(number, self, target, arguments)

    def on_gone(self, message: Message, reason: str, may_have_run: bool) -> None:
        assert reason
        assert isinstance(message, Probe)
        self.gone[message.number].append(may_have_run)
        self.reasons.add(reason)
        self.changed.set()

    @property
    def open(self) -> list[int]:
        return [n for n in self.numbers if not self.replies[n] and not self.gone[n]]

    async def all_ended(self) -> None:
        while self.open:
            self.changed.clear()
            await self.changed.wait()


def moved(message: Message, may_have_run: bool) -> None:
    del may_have_run
    raise AssertionError(f"{message.target} has not moved.")


plans = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.001, 0.05, 0.3, 5.0]),  # how long the handler works
        st.sampled_from([0.0, 0.0, 0.0, 0.002, 0.1, 1.0]),  # how long until the next is sent
    ),
    min_size=1,
    max_size=50,
)


W = TypeVar("W", bound=HostPort)


async def send_all(
    make_wire: Callable[[Host], W], plan: list[tuple[float, float]]
) -> tuple[Sent, Link, W]:
    host = await make_host()
    tasks = TaskSet("the test")
    wire = make_wire(host)
    sent = Sent()
    link = Link(HOST, wire, tasks, on_moved=moved, on_gone=sent.on_gone)
    for number, (seconds, pause) in enumerate(plan):
        message = sent.message(number, seconds)
        if link.blocked:
            sent.numbers.remove(number)  # as the channel does: it looks for another way
            continue
        link.send(message)
        if pause:
            await asyncio.sleep(pause)
    await sent.all_ended()
    await asyncio.sleep(60.0)  # what comes twice comes now
    await tasks.close()
    await host.abandon()
    return sent, link, wire


@settings(deadline=None, max_examples=60)
@given(plan=plans, seed=st.integers(0, 2**32), losses=st.integers(0, 25))
def test_over_a_lossy_wire_each_message_is_handled_once_and_answered_once(
    plan: list[tuple[float, float]], seed: int, losses: int
) -> None:
    def wire(host: Host) -> LossyWire:
        return LossyWire(host, random.Random(seed), losses=losses)

    sent, link, _ = run(send_all(wire, plan))
    assert not link.gone
    assert Worker.handled == Counter(range(len(plan)))
    for number in sent.numbers:
        assert sent.gone[number] == []
        (reply,) = sent.replies[number]
        if number % 7 == 6:
            assert reply.kind == ReplyKind.ERROR
            assert str(error_of(reply)) == f"not {number}"
        else:
            assert reply.kind == ReplyKind.VALUE
            assert decode(reply.payload) == 2 * number


@settings(deadline=None, max_examples=60)
@given(
    plan=plans,
    seed=st.integers(0, 2**32),
    losses=st.integers(0, 10),
    dies_after=st.integers(1, 20),
)
def test_when_the_host_dies_each_message_has_a_reply_or_hears_whether_it_may_have_run(
    plan: list[tuple[float, float]], seed: int, losses: int, dies_after: int
) -> None:
    def wire(host: Host) -> LossyWire:
        return LossyWire(host, random.Random(seed), losses=losses, dies_after=dies_after)

    sent, link, used = run(send_all(wire, plan))
    assert link.gone is used.dead
    assert max(Worker.handled.values(), default=0) <= 1
    for number in sent.numbers:
        assert len(sent.replies[number]) + len(sent.gone[number]) == 1
        if sent.gone[number] == [False]:
            assert number not in Worker.handled
        if number in Worker.handled:
            assert sent.replies[number] or sent.gone[number] == [True]


def test_one_slow_handler_does_not_hold_back_the_fast_ones_of_its_batch() -> None:
    async def scenario() -> None:
        host = await make_host()
        tasks = TaskSet("the test")
        sent = Sent()
        wire = LossyWire(host, random.Random(0))
        link = Link(HOST, wire, tasks, on_moved=moved, on_gone=sent.on_gone)
        link.send(sent.message(0, seconds=100.0))
        for number in range(1, 300):
            link.send(sent.message(number))
        await asyncio.sleep(0.1)
        assert sent.open == [0]
        await sent.all_ended()
        assert asyncio.get_running_loop().time() == pytest.approx(100.0, abs=0.1)
        await tasks.close()
        await host.abandon()

    run(scenario())


# Requests that come late, or again


class FirstLost:
    """Loses the response of the first delivery."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._first = True

    def close(self) -> None:
        pass

    async def deliver(self, packet: Packet) -> Packet:
        first, self._first = self._first, False
        response = await self._host.deliver(packet)
        if first:
            raise HostUnreachable("The response was lost.")
        return response

    async def collect(self, packet: Packet) -> Packet:
        return await self._host.collect(packet)


def test_a_batch_that_comes_again_after_many_others_is_handled_once() -> None:
    sent, _, _ = run(send_all(FirstLost, [(0.0, 0.0005)] * 200))
    assert Worker.handled == Counter(range(200))
    assert {len(replies) for replies in sent.replies.values()} == {1}


class Ghosts:
    """Of the first request of a kind its sender hears no more, though it arrives, after a while."""

    def __init__(self, host: Host, kind: str, delay_s: float) -> None:
        self._host = host
        self._kind = kind
        self._delay_s = delay_s
        self.ghost: asyncio.Task[Packet] | None = None

    def close(self) -> None:
        pass

    async def deliver(self, packet: Packet) -> Packet:
        return await self._pass("deliver", self._host.deliver, packet)

    async def collect(self, packet: Packet) -> Packet:
        return await self._pass("collect", self._host.collect, packet)

    async def _pass(
        self, kind: str, request: Callable[[Packet], Awaitable[Packet]], packet: Packet
    ) -> Packet:
        if kind == self._kind and self.ghost is None:
            self.ghost = asyncio.create_task(self._later(request, packet))
            raise HostUnreachable("It cannot be reached.")
        return await request(packet)

    async def _later(
        self, request: Callable[[Packet], Awaitable[Packet]], packet: Packet
    ) -> Packet:
        await asyncio.sleep(self._delay_s)
        return await request(packet)


SHORTLY_BEFORE_THE_REPETITION = [0.0401, 0.0485, 0.0495, 0.0499]
AFTER_THE_REPETITION = [0.0501, 0.06, 0.1, 0.4, 20.0]


@pytest.mark.parametrize("kind", ["deliver", "collect"])
@pytest.mark.parametrize("delay_s", [0.0, *SHORTLY_BEFORE_THE_REPETITION, *AFTER_THE_REPETITION])
@pytest.mark.parametrize("seconds", [0.0, 0.0008, 0.0012, 0.03, 0.0505, 0.5])
def test_a_late_request_takes_no_replies_away_and_brings_nothing_twice(
    kind: str, delay_s: float, seconds: float
) -> None:
    # Others follow: their batches let the host forget the first one, their replies come with it.
    plan = [(seconds, 0.0), (0.2, 0.03), (0.0, 0.03), (0.001, 0.03), (0.3, 0.3), (0.0, 0.0)]
    sent, _, wire = run(send_all(lambda host: Ghosts(host, kind, delay_s), plan))
    assert Worker.handled == Counter(range(len(plan)))
    assert {len(replies) for replies in sent.replies.values()} == {1}
    assert wire.ghost is not None
    assert wire.ghost.done()
    if delay_s in AFTER_THE_REPETITION:
        assert wire.ghost.result() == NOTHING


# A wire that the test holds in its hands


class HeldWire:
    """Keeps each request until the test answers it, as a host with an outbox of its own would."""

    def __init__(self) -> None:
        self.outbox = Outbox(now=0.0)
        self.delivered: list[Frame] = []
        self.waiting: list[tuple[Frame, asyncio.Future[Packet]]] = []
        self.collects: list[asyncio.Future[Packet]] = []

    def close(self) -> None:
        pass

    async def deliver(self, packet: Packet) -> Packet:
        request = Frame.unpack(packet)
        self.delivered.append(request)
        self.outbox.acknowledged(request)
        answer: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, answer))
        return await answer

    async def collect(self, packet: Packet) -> Packet:
        request = Frame.unpack(packet)
        self.outbox.acknowledged(request)
        answer: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self.collects.append(answer)
        return await answer

    def answer(self, kind: ReplyKind = ReplyKind.VALUE) -> Frame:
        """Answer the oldest delivery with a reply to each of its messages."""
        request, answer = self.waiting.pop(0)
        for envelope in request.envelopes():
            if envelope.kind != Kind.CANCEL:
                self.outbox.reply(envelope.id, kind)
        answer.set_result(self.outbox.take())
        return request

    def answer_without_replies(self) -> Frame:
        request, answer = self.waiting.pop(0)
        answer.set_result(self.outbox.take())
        return request

    def fail(self, error: Exception) -> None:
        self.waiting.pop(0)[1].set_exception(error)

    @property
    def envelopes(self) -> list[Envelope]:
        return [envelope for frame in self.delivered for envelope in frame.envelopes()]


class Bench:
    """A link on a held wire."""

    def __init__(self, batch: BatchLimits = BATCH) -> None:
        self.wire = HeldWire()
        self.tasks = TaskSet("the test")
        self.moved: list[Message] = []
        self.sent = Sent()
        self.link = Link(
            HOST,
            self.wire,
            self.tasks,
            on_moved=lambda message, _: self.moved.append(message),
            on_gone=self.sent.on_gone,
            batch=batch,
        )

    def send(self, number: int, payload: bytes | None = None) -> Message:
        message = self.sent.message(number)
        if payload is not None:
            message.payload = payload
        self.link.send(message)
        return message

    async def settle(self) -> None:
        """Let everything happen that happens at once."""
        for _ in range(10):
            await asyncio.sleep(0)


def on_a_bench(scenario: Callable[[Bench], Awaitable[None]], batch: BatchLimits = BATCH) -> None:
    async def whole() -> None:
        bench = Bench(batch)
        await scenario(bench)
        await bench.tasks.close()

    run(whole())


def test_an_idle_link_sends_at_once_and_a_busy_one_gathers() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(6):
            bench.send(number)
            await bench.settle()
        assert asyncio.get_running_loop().time() == 0.0
        assert [len(frame.messages) for frame in bench.wire.delivered] == [1] * WINDOW
        bench.wire.answer()
        await bench.settle()
        assert [len(frame.messages) for frame in bench.wire.delivered] == [1, 1, 4]

    on_a_bench(scenario)


@pytest.mark.parametrize(("messages", "batches"), [(HALVED - 1, [31]), (HALVED, [16, 16])])
def test_an_idle_host_gets_many_messages_in_two_halves(messages: int, batches: list[int]) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(messages):
            bench.send(number)
        await bench.settle()
        assert [len(frame.messages) for frame in bench.wire.delivered] == batches
        for number in range(messages):
            bench.send(messages + number)
        bench.wire.answer()
        await bench.settle()
        # It works on the other half, or there are few: they go together.
        sizes = [len(frame.messages) for frame in bench.wire.delivered]
        assert sizes == [*batches, messages]

    on_a_bench(scenario)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.sampled_from([0, 10, 1000, 300_000, 2_000_000]), max_size=12),
    small=st.integers(0, 1500),
    batch=st.sampled_from([BatchLimits(), BatchLimits(1), BatchLimits(7, 2000), BatchLimits(900)]),
)
def test_batches_keep_their_limits_and_the_order_of_the_messages(
    sizes: list[int], small: int, batch: BatchLimits
) -> None:
    async def scenario(bench: Bench) -> None:
        payloads = [*([b""] * small), *(bytes(size) for size in sizes)]
        for number, payload in enumerate(payloads):
            bench.send(number, payload)
        await bench.settle()
        while bench.wire.waiting:
            assert len(bench.wire.waiting) <= WINDOW
            bench.wire.answer()
            await bench.settle()
        assert bench.sent.open == []
        assert [len(e.payload) for e in bench.wire.envelopes] == [len(p) for p in payloads]
        for frame in bench.wire.delivered:
            envelopes = frame.envelopes()
            assert 1 <= len(envelopes) <= batch.messages
            # The one that reaches the limit is the last one.
            assert sum(len(e.payload) for e in envelopes[:-1]) < batch.bytes

    on_a_bench(scenario, batch)


BY_RAY = Death(DeathCause.KILLED, "killed on purpose, by ray.kill")
CRASHED = Death(DeathCause.CRASHED, "crashed: Segmentation fault (SIGSEGV)", "SIGSEGV")


@pytest.mark.parametrize(
    ("death", "manager_s", "told"),
    [
        (BY_RAY, 0.3, "its node was lost"),  # the manager killed what it had declared lost
        (BY_RAY, 60.0, BY_RAY.reason),  # nobody says more: somebody else has killed it
        (CRASHED, 0.3, CRASHED.reason),  # it says enough itself, at once
    ],
)
def test_of_a_host_that_was_killed_the_managers_reason_counts(
    death: Death, manager_s: float, told: str
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        loop = asyncio.get_running_loop()
        word = loop.call_later(manager_s, bench.link.close, "its node was lost")
        bench.wire.fail(HostGone(death.reason, death))
        async with asyncio.timeout(10.0):
            await bench.sent.all_ended()
        word.cancel()
        assert bench.sent.reasons == {told}

    on_a_bench(scenario)


def test_a_batch_is_repeated_with_the_same_number_until_it_arrives() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        for _ in range(4):
            await bench.settle()
            bench.wire.fail(HostUnreachable("It cannot be reached."))
            await asyncio.sleep(2.0)  # longer than its longest patience
        bench.wire.answer()
        await bench.sent.all_ended()
        frames = bench.wire.delivered
        assert len({frame.number for frame in frames}) == 1
        assert len({tuple(frame.messages) for frame in frames}) == 1
        assert [frame.attempt for frame in frames] == [0, 1, 2, 3, 4]
        assert len(bench.sent.replies[1]) == 1

    on_a_bench(scenario)


def test_each_response_with_replies_is_acknowledged_by_a_later_request() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(4):
            bench.send(number)
            await bench.settle()
            bench.wire.answer()
            await bench.settle()
        assert [frame.acks for frame in bench.wire.delivered] == [(), (1,), (2,), (3,)]

    on_a_bench(scenario)


def test_an_acknowledgement_whose_request_was_lost_is_given_again() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        bench.wire.answer()
        await bench.settle()
        bench.send(2)
        await bench.settle()
        bench.wire.fail(HostUnreachable("It cannot be reached."))
        await asyncio.sleep(1.0)
        assert [frame.acks for frame in bench.wire.delivered] == [(), (1,), (1,)]

    on_a_bench(scenario)


def test_replies_that_come_twice_are_taken_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        first = bench.wire.answer()
        bench.wire.outbox.acknowledged(batch(1, attempt=1))  # as if that response had been lost
        await bench.settle()
        bench.send(2)
        await bench.settle()
        bench.wire.answer()
        await bench.sent.all_ended()
        assert first.number == 1
        assert {n: len(replies) for n, replies in bench.sent.replies.items()} == {1: 1, 2: 1}

    on_a_bench(scenario)


def test_what_was_delivered_and_not_answered_is_collected() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        bench.send(2)
        await bench.settle()
        bench.wire.answer_without_replies()
        await bench.settle()
        (collect,) = bench.wire.collects
        bench.wire.outbox.reply(1, ReplyKind.VALUE)
        collect.set_result(bench.wire.outbox.take())
        await bench.settle()
        assert bench.sent.open == [2]
        assert len(bench.wire.collects) == 2, "the other one is still waited for"
        bench.wire.outbox.reply(2, ReplyKind.VALUE)
        bench.wire.collects[1].set_result(bench.wire.outbox.take())
        await bench.settle()
        assert bench.sent.open == []
        assert len(bench.wire.collects) == 2, "nothing is waited for any more"

    on_a_bench(scenario)


def test_a_message_that_the_host_does_not_lease_goes_back_to_the_channel() -> None:
    async def scenario(bench: Bench) -> None:
        message = bench.send(1)
        await bench.settle()
        bench.wire.answer(ReplyKind.MOVED)
        await bench.settle()
        assert bench.moved == [message]
        assert bench.sent.replies[1] == []

    on_a_bench(scenario)


def test_an_open_reply_is_followed_by_the_one_that_settles_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        bench.wire.answer(ReplyKind.OPEN)
        await bench.settle()
        bench.wire.outbox.reply(1, ReplyKind.SETTLED)
        bench.wire.collects[0].set_result(bench.wire.outbox.take())
        await bench.settle()
        kinds = [reply.kind for reply in bench.sent.replies[1]]
        assert kinds == [ReplyKind.OPEN, ReplyKind.SETTLED]

    on_a_bench(scenario)


def test_a_lost_host_fails_what_had_left_and_what_had_not_each_in_its_own_way() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(WINDOW + 2):
            bench.send(number)
            await bench.settle()
        bench.wire.fail(HostGone("It was killed."))
        await bench.settle()
        assert bench.sent.gone == {number: [number < WINDOW] for number in range(WINDOW + 2)}
        assert bench.link.gone
        assert bench.link.blocked
        # The other batch's answer comes too late, and changes nothing.
        bench.wire.answer()
        await bench.settle()
        assert not any(bench.sent.replies.values())
        assert len(bench.wire.delivered) == WINDOW

    on_a_bench(scenario)


def test_a_message_that_was_given_up_before_it_left_never_leaves() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(WINDOW):
            bench.send(number)
            await bench.settle()
        message = bench.send(9)
        message.closed = True
        bench.link.cancel(message)
        bench.send(10)
        bench.wire.answer()
        await bench.settle()
        assert len(bench.wire.envelopes) == WINDOW + 1

    on_a_bench(scenario)


def test_a_message_that_was_given_up_later_is_cancelled_there_and_still_replied_to() -> None:
    async def scenario(bench: Bench) -> None:
        message = bench.send(1)
        await bench.settle()
        message.closed = True
        bench.link.cancel(message)
        await bench.settle()
        stop = bench.wire.envelopes[-1]
        assert (stop.kind, stop.name) == (Kind.CANCEL, str(message.id))
        bench.wire.answer()
        await bench.settle()
        assert len(bench.sent.replies[1]) == 1, "it tells that the handler has ended"
        assert bench.sent.gone[1] == []

    on_a_bench(scenario)


def test_a_link_with_too_many_open_messages_takes_no_more_until_a_reply_came() -> None:
    async def scenario(bench: Bench) -> None:
        message = bench.sent.message(1)
        for _ in range(MAX_OPEN - 1):
            bench.link.send(message)
        assert not bench.link.blocked
        bench.link.send(message)
        assert bench.link.blocked
        await bench.settle()
        bench.wire.answer()
        await bench.settle()
        assert not bench.link.blocked

    on_a_bench(scenario)


def test_a_link_whose_messages_were_given_up_takes_new_ones() -> None:
    async def scenario(bench: Bench) -> None:
        messages = [bench.sent.message(number) for number in range(MAX_OPEN)]
        for message in messages:
            bench.link.send(message)
        assert bench.link.blocked
        for message in messages:
            message.closed = True
            bench.link.cancel(message)
        await bench.settle()
        assert not bench.link.blocked

    on_a_bench(scenario)


def test_replies_are_collected_also_after_a_message_was_given_up_in_the_queue() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        bench.wire.answer_without_replies()
        given_up = bench.send(2)
        given_up.closed = True
        bench.link.cancel(given_up)
        await bench.settle()
        assert len(bench.wire.collects) == 1

    on_a_bench(scenario)


def kinds_of(bench: Bench, number: int) -> list[int]:
    return [reply.kind for reply in bench.sent.replies[number]]


def test_an_open_reply_that_comes_again_with_another_batch_is_taken_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.send(1)
        await bench.settle()
        bench.wire.answer(ReplyKind.OPEN)
        await bench.settle()
        bench.send(2)
        await bench.settle()
        bench.wire.fail(HostUnreachable("It cannot be reached."))
        await asyncio.sleep(1.0)
        bench.wire.answer()
        await bench.settle()
        assert kinds_of(bench, 1) == [ReplyKind.OPEN]

    on_a_bench(scenario)


def test_an_open_reply_that_comes_again_before_its_slow_first_response_is_taken_once() -> None:
    async def scenario(bench: Bench) -> None:
        for number in (1, 2):
            bench.send(number)
            await bench.settle()
        _, slow = bench.wire.waiting.pop(0)
        bench.wire.outbox.reply(1, ReplyKind.OPEN)
        response = bench.wire.outbox.take()
        bench.wire.fail(HostUnreachable("It cannot be reached."))
        await asyncio.sleep(1.0)
        bench.wire.answer()  # the second batch again, and with it the first one's reply
        await bench.settle()
        assert kinds_of(bench, 1) == [ReplyKind.OPEN]
        slow.set_result(response)
        await bench.settle()
        assert kinds_of(bench, 1) == [ReplyKind.OPEN]

    on_a_bench(scenario)


def test_an_open_reply_is_taken_once_when_both_batches_are_lost_and_come_again() -> None:
    async def scenario(bench: Bench) -> None:
        for number in (1, 2):
            bench.send(number)
            await bench.settle()
        outbox = bench.wire.outbox
        for number, kind in ((1, ReplyKind.OPEN), (2, ReplyKind.VALUE)):
            outbox.reply(number, kind)
            outbox.take()  # lost
        bench.wire.fail(HostUnreachable("It cannot be reached."))
        bench.wire.fail(HostUnreachable("It cannot be reached."))
        await asyncio.sleep(0.06)
        (first, to_first), (second, to_second) = bench.wire.waiting
        assert (first.attempt, second.attempt) == (1, 1)
        responses: list[Packet] = []
        for request in (first, second):  # both arrive before either response returns
            outbox.acknowledged(request)
            responses.append(outbox.take())
        to_first.set_result(responses[0])
        to_second.set_result(responses[1])
        await bench.settle()
        assert kinds_of(bench, 1) == [ReplyKind.OPEN]
        assert kinds_of(bench, 2) == [ReplyKind.VALUE]

    on_a_bench(scenario)


def test_a_settled_reply_that_overtakes_its_open_one_waits_for_it() -> None:
    async def scenario(bench: Bench) -> None:
        for number in (1, 2):
            bench.send(number)
            await bench.settle()
        _, slow = bench.wire.waiting.pop(0)
        bench.wire.outbox.reply(1, ReplyKind.OPEN)
        response = bench.wire.outbox.take()
        bench.wire.outbox.reply(1, ReplyKind.SETTLED)
        bench.wire.answer()
        await bench.settle()
        assert kinds_of(bench, 1) == []
        slow.set_result(response)
        await bench.settle()
        assert kinds_of(bench, 1) == [ReplyKind.OPEN, ReplyKind.SETTLED]

    on_a_bench(scenario)
