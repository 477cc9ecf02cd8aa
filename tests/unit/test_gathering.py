"""An aggregator's bookkeeping, whatever comes in whatever order, against a plain model of it."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentray import Event
from agentray.patterns.branches import BranchFailed
from agentray.patterns.gathering import Gathering, Taken, needed


class A(Event):
    pass


class B(Event):
    pass


class C(Event):
    pass


TYPES: list[type[Event]] = [A, B, C]
NAMES = [event.event_type for event in TYPES]


class GatheringMachine(RuleBasedStateMachine):
    """Sends events, again and again, lets branches fail, gives up, and sends more."""

    @initialize(
        counts=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any), data=st.data()
    )
    def begin(self, counts: list[int], data: st.DataObject) -> None:
        needs = {event: n for event, n in zip(TYPES, counts, strict=True) if n}
        total = sum(needs.values())
        quorum = data.draw(st.none() | st.integers(1, total))
        self.needs, self.quorum = needed("Machine", needs, quorum)
        assert (sum(self.needs.values()), self.quorum) == (total, quorum or total)
        self.gathering = Gathering(self.needs, self.quorum)
        self.sent: list[Event] = []
        self.counted: list[Event] = []
        self.failed: Counter[str] = Counter()
        self.ended = False
        self.completed = 0

    def types(self) -> list[type[Event]]:
        return [event for event in TYPES if event.event_type in self.needs]

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.types()))()
        self.sent.append(event)
        self.check(event)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        self.check(data.draw(st.sampled_from(self.sent)))

    def check(self, event: Event) -> None:
        known = [counted.event_id for counted in self.counted]
        of_type = sum(counted.event_type == event.event_type for counted in self.counted)
        ignored = self.gathering.ignored
        taken = self.gathering.take(event.event_id, event)
        if event.event_id in known:
            assert taken is Taken.DUPLICATE
        elif self.ended:
            assert taken is Taken.LATE
        elif of_type >= self.needs[event.event_type]:
            assert taken is Taken.SURPLUS
            ignored += 1
        else:
            self.counted.append(event)
            last = len(self.counted) == self.quorum
            assert taken is (Taken.LAST if last else Taken.COUNTED)
            self.ended = last
            self.completed += last
        assert self.gathering.ignored == ignored

    @rule(name=st.sampled_from([*NAMES, "unknown"]), twice=st.booleans())
    def fail(self, name: str, twice: bool) -> None:
        failure = BranchFailed(instead_of=name)
        for _ in range(1 + twice):
            self.gathering.fail(failure.event_id, failure)
        if not self.ended and self.failed[name] < self.needs.get(name, 0):
            self.failed[name] += 1

    @precondition(lambda self: not self.ended)
    @rule()
    def give_up(self) -> None:
        self.gathering.ended = self.ended = True

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def take_late(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.types()))()
        assert self.gathering.take(event.event_id, event) is Taken.LATE
        self.gathering.take_late(event.event_id, event)
        same = [counted for counted in self.counted if counted.event_type == event.event_type]
        if len(same) == self.needs[event.event_type]:
            self.counted.remove(same[0])
        self.counted.append(event)

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        gathering, counts = self.gathering, Counter(e.event_type for e in self.counted)
        assert list(gathering.gathered()) == self.counted
        assert gathering.ended is self.ended
        assert gathering.complete is (len(self.counted) >= self.quorum)
        assert gathering.missing == tuple(n for n, need in self.needs.items() if counts[n] < need)
        assert gathering.begun is bool(self.counted or self.failed.total())
        assert self.completed <= 1

    @invariant()
    def it_never_holds_more_than_is_needed(self) -> None:
        for event in self.types():
            assert len(self.gathering.gathered().all(event)) <= self.needs[event.event_type]
        assert len(self.gathering.gathered().failures) <= sum(self.needs.values())

    @invariant()
    def it_is_exhausted_when_each_event_has_come_or_failed_and_there_are_too_few(self) -> None:
        counts = Counter(e.event_type for e in self.counted)
        open_ = [n for n, need in self.needs.items() if counts[n] + self.failed[n] < need]
        too_few = len(self.counted) < self.quorum
        assert self.gathering.exhausted is (too_few and not open_)


TestGathering = GatheringMachine.TestCase


def test_what_is_dropped_is_still_known() -> None:
    gathering = Gathering({A.event_type: 1}, 1)
    event = A()
    assert gathering.take(event.event_id, event) is Taken.LAST
    gathering.drop()
    assert list(gathering.gathered()) == []
    assert gathering.take(event.event_id, event) is Taken.DUPLICATE
