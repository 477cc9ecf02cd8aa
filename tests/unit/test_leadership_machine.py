"""Leadership as a state machine: managers that come, stop, sleep and wake, over one row."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentray.core.leadership import (
    LEASE_S,
    RENEW_S,
    RESTART_S,
    Candidate,
    Lead,
    Take,
    Wait,
    Yield,
    claim,
    depose,
    given_up,
    renew,
)

PLACES = ["first", "second", "third"]


class Process:
    """One manager's process: what it knows of the row."""

    def __init__(self, place: str) -> None:
        self.candidate = Candidate(place, f"manager of {place}")
        self.seen: Lead | None = None
        self.mine: Lead | None = None
        self.renewed_at = 0.0
        self.over = False  # it has found out that another one leads


class Managers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.row: Lead | None = None
        self.processes: list[Process] = []
        self.history: list[Lead] = []  # that were taken
        self.looked: Lead | None = None  # what who looks after the manager saw last

    def write(self, lead: Lead) -> None:
        before, self.row = self.row, lead
        if before is None or before.epoch != lead.epoch:
            self.history.append(lead)

    @rule(place=st.sampled_from(PLACES))
    def begin(self, place: str) -> None:
        """One that was started, or that Ray has started again in the same place."""
        self.processes.append(Process(place))

    @rule(seconds=st.sampled_from([0.1, RENEW_S, LEASE_S / 2, LEASE_S, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(n=st.integers(0, 9))
    def look(self, n: int) -> None:
        waiting = [p for p in self.processes if p.mine is None and not p.over]
        if not waiting:
            return
        process = waiting[n % len(waiting)]
        found = self.row
        match claim(process.candidate, found, process.seen, self.now, "cluster"):
            case Take(lead):
                if found is not None and found.place != process.candidate.place:
                    assert found.expires_at <= self.now, "taken from one that may be alive"
                assert lead.epoch == (found.epoch if found else 0) + 1
                assert lead.cluster == (found.cluster if found else "cluster")
                self.write(lead)
                process.mine, process.renewed_at = lead, self.now
            case Wait(seconds):
                assert 0 < seconds <= LEASE_S
                assert found is not None
                process.seen = process.seen or found
            case Yield(other):
                assert other == found
                assert other.place != process.candidate.place
                assert process.seen is not None
                assert other != process.seen, "it yields only to one that has shown to be alive"
                process.over = True

    @rule(n=st.integers(0, 9))
    def renew(self, n: int) -> None:
        leading = [p for p in self.processes if p.mine is not None and not p.over]
        if not leading:
            return
        process = leading[n % len(leading)]
        assert process.mine is not None
        match renew(process.mine, self.row, self.now):
            case Take(lead):
                assert self.row is not None
                assert (lead.epoch, lead.place) == (process.mine.epoch, self.row.place)
                assert (lead.renewals, lead.expires_at) > (self.row.renewals, 0)
                self.write(lead)
                process.mine, process.renewed_at = lead, self.now
            case Yield(other):
                assert other.epoch > process.mine.epoch
                process.over = True
            case None:
                raise AssertionError("the row is there")

    @rule(n=st.integers(0, 9))
    def stop(self, n: int) -> None:
        leading = [p for p in self.processes if p.mine is not None and not p.over]
        if not leading:
            return
        process = leading[n % len(leading)]
        assert process.mine is not None
        assert self.row is not None
        if self.row.epoch == process.mine.epoch:
            self.write(given_up(self.row, self.now))
            answer = claim(Candidate("next", "next"), self.row, None, self.now, "")
            assert isinstance(answer, Take), "the next one need not wait"
        process.over = True

    @rule()
    def look_after_the_manager(self) -> None:
        found, seen = self.row, self.looked
        deposed = depose(found, seen, self.now)
        self.looked = found
        if deposed is None:
            return
        assert found is not None
        assert found.expires_at <= self.now, "deposed although it may be at work"
        assert found == seen, "deposed although it has just shown to be alive"
        self.write(deposed)
        assert depose(deposed, deposed, self.now) is None, "it gets the time to come back"
        again = claim(Candidate(found.place, "restarted"), deposed, None, self.now, "")
        assert isinstance(again, Take), "the one that Ray starts in its place need not wait"

    @rule(n=st.integers(0, 9))
    def die(self, n: int) -> None:
        if self.processes:
            self.processes.pop(n % len(self.processes))

    @invariant()
    def epochs_rise_by_one(self) -> None:
        assert [lead.epoch for lead in self.history] == list(range(1, len(self.history) + 1))

    @invariant()
    def at_most_one_process_has_the_epoch_of_the_row(self) -> None:
        if self.row is not None:
            holders = [
                p
                for p in self.processes
                if p.mine is not None and not p.over and p.mine.epoch == self.row.epoch
            ]
            assert len(holders) <= 1

    @invariant()
    def of_two_places_at_most_one_may_act_without_looking(self) -> None:
        certain = {
            p.candidate.place
            for p in self.processes
            if p.mine and not p.over and self.now - p.renewed_at < LEASE_S
        }
        # One that has lost its lead to the next process of its own place may believe in it until
        # it looks: its writes are refused by their epoch.
        latest = {
            p.candidate.place
            for p in self.processes
            if p.mine
            and not p.over
            and self.now - p.renewed_at < LEASE_S
            and self.row
            and p.mine.epoch == self.row.epoch
        }
        assert len(latest) <= 1
        assert len(certain) <= 1 or latest < certain


TestManagers = Managers.TestCase
TestManagers.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_manager_that_renews_in_time_is_never_replaced_by_one_of_another_place() -> None:
    lead = Lead(1, "first", "first", 0, LEASE_S, "cluster")
    now, seen = 0.0, lead
    for _ in range(20):
        answer = renew(lead, lead, now)
        assert isinstance(answer, Take)
        lead = answer.lead
        now += RENEW_S
        assert not isinstance(claim(Candidate("other", ""), lead, None, now, ""), Take)
    assert claim(Candidate("other", ""), lead, seen, now, "") == Yield(lead)


def test_a_manager_of_another_place_waits_until_the_lead_has_run_out() -> None:
    lead, other = Lead(3, "first", "first", 7, 50.0, "cluster"), Candidate("other", "the other")
    assert claim(other, lead, None, 49.5, "") == Wait(0.5)
    assert claim(other, lead, lead, 50.0, "") == Take(
        Lead(4, "other", "the other", 0, 50.0 + LEASE_S, "cluster")
    )


def test_the_same_actor_restarted_need_not_wait() -> None:
    lead = Lead(3, "first", "process 1", 7, 50.0, "cluster")
    assert claim(Candidate("first", "process 2"), lead, None, 41.0, "") == Take(
        Lead(4, "first", "process 2", 0, 41.0 + LEASE_S, "cluster")
    )


def test_a_lead_whose_row_is_gone_is_lost() -> None:
    assert renew(Lead(3, "first", "", 7, 50.0, "cluster"), None, 41.0) is None


def test_one_that_does_not_renew_is_deposed_at_the_second_look() -> None:
    lead = Lead(3, "first", "process 1", 7, 50.0, "cluster")
    assert depose(lead, None, 49.9) is None
    assert depose(lead, lead, 49.9) is None, "it still has time"
    assert depose(lead, None, 51.0) is None, "the Store may just have come back"
    deposed = depose(lead, lead, 55.0)
    assert deposed is not None
    assert deposed == Lead(4, "first", "process 1", 0, 55.0 + RESTART_S, "cluster")
    assert renew(lead, deposed, 56.0) == Yield(deposed), "should it wake up, it is refused"
    assert depose(deposed, deposed, 55.0 + RESTART_S - 1) is None
    assert depose(deposed, deposed, 55.0 + RESTART_S) is not None, "it did not come back"


def test_one_that_was_stopped_is_not_started_again() -> None:
    stopped = given_up(Lead(3, "first", "process 1", 7, 50.0, "cluster"), 45.0)
    assert depose(stopped, stopped, 60.0) is None
