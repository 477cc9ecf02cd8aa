"""Supervision: how long to wait, when to give up, and when a host is taken for dead."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.supervision import MISSES_UNTIL_DEAD, Backoff, Heartbeats


def waits(backoff: Backoff, *times: float, jitter: float = 0.0) -> list[float | None]:
    return [backoff.failed(now, jitter) for now in times]


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    backoff = Backoff(max_restarts=None, period_s=60.0, base_s=0.5, max_s=10.0)
    assert waits(backoff, *range(7)) == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_one_failure_more_than_allowed_within_the_period_gives_up() -> None:
    backoff = Backoff(max_restarts=2, period_s=60.0, base_s=1.0, max_s=10.0)
    assert waits(backoff, 0.0, 1.0, 2.0) == [1.0, 2.0, None]
    assert backoff.failed(3.0, 0.0) is None


def test_with_no_restarts_allowed_the_first_failure_gives_up() -> None:
    assert Backoff(0, 60.0, 1.0, 10.0).failed(0.0, 0.0) is None


def test_without_a_limit_it_never_gives_up_and_never_overflows() -> None:
    backoff = Backoff(max_restarts=None, period_s=1e9, base_s=0.1, max_s=30.0)
    assert waits(backoff, *range(2000))[-1] == 30.0


def test_failures_older_than_the_period_do_not_count() -> None:
    backoff = Backoff(max_restarts=2, period_s=10.0, base_s=1.0, max_s=60.0)
    assert waits(backoff, 0.0, 5.0) == [1.0, 2.0]
    # At 10.0 the first one is exactly a period old: it has left the window, so there is another
    # attempt; the waits go on growing, for there was no quiet time.
    assert backoff.failed(10.0, 0.0) == 4.0
    assert backoff.failed(10.1, 0.0) is None
    assert backoff.failed(25.0, 0.0) == 1.0


def test_the_waits_stay_long_until_there_was_a_quiet_time() -> None:
    backoff = Backoff(max_restarts=None, period_s=60.0, base_s=0.2, max_s=10.0)
    times = [10.0 * n for n in range(20)]
    assert waits(backoff, *times)[6:] == [10.0] * 14
    assert backoff.failed(times[-1] + 60.0, 0.0) == 0.2


@settings(deadline=None)
@given(
    jitter=st.floats(0.0, 1.0),
    base=st.floats(0.01, 5.0),
    longest=st.floats(5.0, 100.0),
    failures=st.integers(1, 80),
)
def test_jitter_makes_a_wait_longer_by_at_most_a_fifth(
    jitter: float, base: float, longest: float, failures: int
) -> None:
    plain = waits(Backoff(None, 1e6, base, longest), *range(failures))[-1]
    spread = waits(Backoff(None, 1e6, base, longest), *range(failures), jitter=jitter)[-1]
    assert plain is not None
    assert spread is not None
    assert plain <= spread <= plain * 1.2 + 1e-9
    assert base <= plain <= longest


def test_jitter_spreads_the_restarts_of_many() -> None:
    first = [Backoff(3, 60.0, 1.0, 10.0).failed(0.0, n / 10) for n in range(11)]
    assert first[0] == 1.0
    assert first[-1] == pytest.approx(1.2)
    assert len(set(first)) == 11


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=40),
    allowed=st.integers(0, 5),
    period=st.floats(1.0, 30.0),
)
def test_it_gives_up_exactly_when_too_many_failures_lie_within_one_period(
    gaps: list[float], allowed: int, period: float
) -> None:
    backoff = Backoff(allowed, period, 1.0, 10.0)
    times: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        within = sum(now - then < period for then in times)
        assert (backoff.failed(now, 0.0) is None) is (within > allowed)


@settings(deadline=None)
@given(count=st.integers(2, 20))
def test_waits_never_shrink_while_failures_go_on_within_the_period(count: int) -> None:
    found = waits(Backoff(None, 1000.0, 0.1, 10.0), *range(count))
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(found))


def test_a_host_is_dead_after_three_misses_in_a_row_and_not_before() -> None:
    beats = Heartbeats()
    assert MISSES_UNTIL_DEAD == 3
    assert [beats.missed() for _ in range(3)] == [False, False, True]


def test_an_answer_lets_earlier_misses_be_forgotten() -> None:
    beats = Heartbeats()
    assert [beats.missed(), beats.missed()] == [False, False]
    beats.answered()
    assert [beats.missed() for _ in range(3)] == [False, False, True]


def test_a_dead_host_stays_dead_with_further_misses() -> None:
    beats = Heartbeats(misses=MISSES_UNTIL_DEAD)
    assert beats.missed()
