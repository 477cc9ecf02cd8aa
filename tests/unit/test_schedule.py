"""The schedule of timers: ticks may fall out, but never pile up, drift or come early."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.schedule import next_tick

PERIODS = st.integers(1, 1000)
TIMES = st.integers(0, 10**6)


@settings(deadline=None)
@given(due=TIMES, period=PERIODS, late=TIMES)
def test_the_next_tick_is_the_first_of_the_schedule_that_is_not_past(
    due: int, period: int, late: int
) -> None:
    now = due + late
    found, missed = next_tick(due, period, now)
    assert found >= now
    assert found > due
    assert (found - due) % period == 0
    assert found - period < now or missed == 0
    assert missed == max(0, math.ceil(late / period) - 1)


@settings(deadline=None)
@given(period=PERIODS, took=st.lists(st.integers(0, 5000), max_size=30))
def test_ticks_and_missed_ones_together_are_the_whole_schedule(
    period: int, took: list[int]
) -> None:
    due, ticks, missed = float(period), 0, 0
    for duration in took:
        ticks += 1
        due, fell_out = next_tick(due, period, due + duration)
        missed += fell_out
    assert due == period * (ticks + missed + 1)


def test_a_tick_that_is_due_when_the_last_one_ends_has_not_fallen_out() -> None:
    assert next_tick(5.0, 5.0, 10.0) == (10.0, 0)
    assert next_tick(5.0, 5.0, 10.1) == (15.0, 1)
