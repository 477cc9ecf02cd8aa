"""Fair mailboxes against a model: nothing is lost, each run keeps its order and gets its turn."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentray import Agent, AgentOptions, App, Event, TerminateEvent, action, on
from agentray.core.mailbox import FairMailbox, Mailbox, Offer
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

RUNS = ("a", "b", "c", "d")


class ByRun(FairMailbox[tuple[str | None, int]]):
    """Messages are (run, number)."""

    __slots__ = ()

    def run_of(self, message: tuple[str | None, int]) -> str | None:
        return message[0]


class FairMailboxMachine(RuleBasedStateMachine):
    """The model: which messages wait, and what got a turn since each of them began to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = ByRun(1, 1)
        self.concurrency = 1
        self.limit = 1
        self.offered = 0
        self.holding: list[tuple[str | None, int]] = []
        self.waiting: list[tuple[str | None, int]] = []  # as they came
        self.ended: list[tuple[str | None, int]] = []
        self.passed: dict[str, list[str | None]] = {}
        """By run that waits: the runs that got a turn since it came, or since its own last turn."""

    @initialize(concurrency=st.integers(1, 3), limit=st.integers(1, 12))
    def begin(self, concurrency: int, limit: int) -> None:
        self.mailbox = ByRun(concurrency, limit)
        self.concurrency, self.limit = concurrency, limit

    @rule(run=st.sampled_from((*RUNS, None)), own=st.booleans())
    def offer(self, run: str | None, own: bool) -> None:
        self.offered += 1
        message = (run, self.offered)
        offer = self.mailbox.offer(message, own=own)
        if len(self.holding) < self.concurrency:
            assert offer is Offer.RUN
            self.holding.append(message)
        elif len(self.waiting) < self.limit or own:
            assert offer is Offer.QUEUED
            self.waiting.append(message)
            if run is not None:
                self.passed.setdefault(run, [])
        else:
            assert offer is Offer.REFUSED
            self.ended.append(message)

    @precondition(lambda self: bool(self.holding))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        done = data.draw(st.sampled_from(self.holding))
        self.holding.remove(done)
        self.ended.append(done)
        following = self.mailbox.finished()
        if following is None:
            assert not self.waiting
            return
        run = following[0]
        of_its_run = [message for message in self.waiting if message[0] == run]
        assert following == of_its_run[0], "in order within a run, and among those of none"
        self.waiting.remove(following)
        self.holding.append(following)
        for waits, passed in self.passed.items():
            if waits != run:
                passed.append(run)
        self._took_its_turn(run)

    def _took_its_turn(self, run: str | None) -> None:
        if run is None:
            return
        if any(message[0] == run for message in self.waiting):
            self.passed[run] = []
        else:
            del self.passed[run]

    @invariant()
    def no_run_is_passed_twice_by_another_while_it_waits_for_one_turn(self) -> None:
        for waits, passed in self.passed.items():
            of_runs = [run for run in passed if run is not None]
            assert len(of_runs) == len(set(of_runs)), (waits, passed)

    @precondition(lambda self: self.offered > 0)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        everything = [*self.waiting, *self.holding, *self.ended]
        message = data.draw(st.sampled_from(everything))
        waits = message in self.waiting
        assert self.mailbox.withdraw(message) is waits
        if waits:
            self.waiting.remove(message)
            self.ended.append(message)
            if message[0] is not None and not any(m[0] == message[0] for m in self.waiting):
                del self.passed[message[0]]

    @rule()
    def clear(self) -> None:
        taken = self.mailbox.clear()
        assert sorted(taken, key=str) == sorted(self.waiting, key=str)
        for run in (*RUNS, None):
            assert [m for m in taken if m[0] == run] == [m for m in self.waiting if m[0] == run]
        self.ended.extend(self.waiting)
        self.waiting.clear()
        self.passed.clear()

    @invariant()
    def as_many_wait_as_the_model_says(self) -> None:
        assert len(self.mailbox) == len(self.waiting)

    @invariant()
    def nothing_is_lost_and_nothing_counted_twice(self) -> None:
        everything = sorted(n for _, n in (*self.holding, *self.waiting, *self.ended))
        assert everything == list(range(1, self.offered + 1))

    def teardown(self) -> None:
        for _ in range(len(self.holding) + len(self.waiting)):
            following = self.mailbox.finished()
            if following is None:
                assert not self.waiting
            else:
                self.waiting.remove(following)
        assert (len(self.mailbox), self.waiting) == (0, [])
        for _ in range(self.concurrency):
            assert self.mailbox.offer((None, 0)) is Offer.RUN


FairMailboxMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None
)
TestFairMailboxAgainstItsModel: Any = FairMailboxMachine.TestCase


def fill(*messages: tuple[str | None, int]) -> ByRun:
    mailbox = ByRun(1, 100)
    assert mailbox.offer((None, 0)) is Offer.RUN
    for message in messages:
        assert mailbox.offer(message) is Offer.QUEUED
    return mailbox


def test_a_run_with_many_messages_does_not_hold_back_another() -> None:
    mailbox = fill(("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5), ("c", 6))
    got = [mailbox.finished() for _ in range(6)]
    assert got == [("a", 1), ("b", 4), ("c", 6), ("a", 2), ("b", 5), ("a", 3)]


def test_messages_of_no_run_keep_their_order_and_wait_for_one_message_of_each_run() -> None:
    mailbox = fill(("a", 1), ("a", 2), (None, 3), ("a", 4), (None, 5), ("b", 6))
    got = [mailbox.finished() for _ in range(6)]
    assert got == [("a", 1), (None, 3), (None, 5), ("b", 6), ("a", 2), ("a", 4)]


def test_what_is_cleared_comes_in_the_order_of_its_turns() -> None:
    messages = (("a", 1), ("a", 2), ("b", 3), (None, 4), ("a", 5))
    expected = [fill(*messages).finished()]
    mailbox = fill(*messages)
    expected = [mailbox.finished() for _ in messages]
    assert fill(*messages).clear() == expected


def test_an_idle_fair_mailbox_is_no_larger_than_another() -> None:
    class Plain(Mailbox[tuple[str | None, int]]):
        __slots__ = ()

    class Fair(ByRun):
        __slots__ = ()

    assert sys.getsizeof(Fair(1, 10)) == sys.getsizeof(Plain(1, 10))


class Flood(Event):
    number: int


class Counted(TerminateEvent):
    handled: list[str]


class Press(Agent):
    """Handles what many conversations send it, and remembers in which order."""

    def __init__(self) -> None:
        self.handled: list[str] = []

    @on(Flood, key="key:all")
    async def take(self, flood: Flood) -> None:
        self.handled.append(f"{flood.correlation_id}{flood.number}")

    @action
    async def order(self) -> list[str]:
        return self.handled


class Unfair(Press):
    options = AgentOptions(fair_runs=False)


class Source(Agent):
    """Publishes many events of one conversation, then a few of another."""

    @action
    async def flood(self) -> None:
        for run, count in (("a", 4), ("b", 2)):
            for number in range(count):
                self.context.publish(Flood(correlation_id=run, number=number))


async def handled_by(agent: type[Press]) -> list[str]:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("floods", [agent, Source]))
        await manager.handle(Source, "s").flood()
        press = manager.handle(agent, "all")

        async def all_of_it() -> list[str]:
            handled = await press.order()
            return handled if len(handled) == 6 else []

        return await eventually_async(all_of_it)


async def test_events_of_one_run_do_not_hold_back_those_of_another() -> None:
    # The first is handled at once; the others wait, and take turns.
    assert await handled_by(Press) == ["a0", "a1", "b0", "a2", "b1", "a3"]


async def test_an_agent_may_want_its_messages_in_the_order_in_which_they_came() -> None:
    assert await handled_by(Unfair) == ["a0", "a1", "a2", "a3", "b0", "b1"]
