"""Mailboxes against a model: turns, order, limits, and nothing lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentray.core.mailbox import Mailbox, Offer


class MailboxMachine(RuleBasedStateMachine):
    """The model: which messages hold a turn, which wait in which order, what became of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox: Mailbox[int] = Mailbox(1, 1)
        self.concurrency: int | None = 1
        self.limit = 1
        self.offered = 0
        self.holding: list[int] = []
        self.waiting: list[int] = []
        self.ended: list[int] = []  # handled, withdrawn, cleared, refused or re-entrant

    @initialize(concurrency=st.none() | st.integers(1, 4), limit=st.integers(1, 5))
    def begin(self, concurrency: int | None, limit: int) -> None:
        self.mailbox = Mailbox(concurrency, limit)
        self.concurrency, self.limit = concurrency, limit

    def _next(self) -> int:
        self.offered += 1
        return self.offered

    @rule()
    def offer(self) -> None:
        message = self._next()
        offer = self.mailbox.offer(message)
        if self.concurrency is None or len(self.holding) < self.concurrency:
            assert offer is Offer.RUN
            self.holding.append(message)
        elif len(self.waiting) < self.limit:
            assert offer is Offer.QUEUED
            self.waiting.append(message)
        else:
            assert offer is Offer.REFUSED
            self.ended.append(message)

    @rule()
    def offer_reentrant(self) -> None:
        # It runs inside the turn that waits for it: it neither takes a turn nor ends one.
        message = self._next()
        assert self.mailbox.offer(message, reentrant=True) is Offer.RUN
        self.ended.append(message)

    @precondition(lambda self: bool(self.holding))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        done = data.draw(st.sampled_from(self.holding))
        self.holding.remove(done)
        self.ended.append(done)
        following = self.mailbox.finished()
        if self.waiting:
            assert following == self.waiting[0]
            self.holding.append(self.waiting.pop(0))
        else:
            assert following is None

    @precondition(lambda self: self.offered > 0)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        message = data.draw(st.integers(1, self.offered))
        waits = message in self.waiting
        assert self.mailbox.withdraw(message) is waits
        if waits:
            self.waiting.remove(message)
            self.ended.append(message)

    @rule()
    def clear(self) -> None:
        assert self.mailbox.clear() == self.waiting
        self.ended.extend(self.waiting)
        self.waiting.clear()

    @invariant()
    def as_many_wait_as_the_model_says(self) -> None:
        assert len(self.mailbox) == len(self.waiting) <= self.limit

    @invariant()
    def never_more_than_the_concurrency_hold_a_turn(self) -> None:
        if self.concurrency is None:
            assert not self.waiting
        else:
            assert len(self.holding) <= self.concurrency

    @invariant()
    def nothing_is_lost_and_nothing_counted_twice(self) -> None:
        everything = sorted([*self.holding, *self.waiting, *self.ended])
        assert everything == list(range(1, self.offered + 1))

    def teardown(self) -> None:
        # Whatever waits at the end gets its turn, in order, and then the mailbox is free again.
        for _ in range(len(self.holding) + len(self.waiting)):
            following = self.mailbox.finished()
            assert following == (self.waiting.pop(0) if self.waiting else None)
        assert len(self.mailbox) == 0
        for _ in range(self.concurrency or 3):
            assert self.mailbox.offer(0) is Offer.RUN


MailboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMailboxAgainstItsModel: Any = MailboxMachine.TestCase


@pytest.mark.parametrize("concurrency", [1, 3])
def test_messages_get_their_turns_in_the_order_in_which_they_came(concurrency: int) -> None:
    mailbox: Mailbox[int] = Mailbox(concurrency, 10)
    offers = [mailbox.offer(n) for n in range(8)]
    assert offers == [Offer.RUN] * concurrency + [Offer.QUEUED] * (8 - concurrency)
    assert [mailbox.finished() for _ in range(8 - concurrency)] == list(range(concurrency, 8))


def test_a_message_of_its_own_call_chain_runs_although_the_mailbox_is_full() -> None:
    mailbox: Mailbox[str] = Mailbox(1, 1)
    assert mailbox.offer("outer") is Offer.RUN
    assert mailbox.offer("waits") is Offer.QUEUED
    assert mailbox.offer("too many") is Offer.REFUSED
    assert mailbox.offer("inner", reentrant=True) is Offer.RUN
    assert mailbox.finished() == "waits"


def test_without_a_limit_of_turns_nothing_ever_waits() -> None:
    mailbox: Mailbox[int] = Mailbox(None, 1)
    assert {mailbox.offer(n) for n in range(100)} == {Offer.RUN}
    assert mailbox.finished() is None
    assert len(mailbox) == 0


def test_a_withdrawn_message_makes_room_for_another_and_never_gets_a_turn() -> None:
    mailbox: Mailbox[str] = Mailbox(1, 1)
    mailbox.offer("running")
    mailbox.offer("withdrawn")
    assert mailbox.withdraw("withdrawn")
    assert not mailbox.withdraw("withdrawn")
    assert not mailbox.withdraw("running")
    assert mailbox.offer("next") is Offer.QUEUED
    assert mailbox.finished() == "next"
