"""When schedules fire: times, outages, changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.recurrence import (
    MAX_AT_ONCE,
    Catching,
    Recurrence,
    check_cron,
    decide,
    firing_id,
    jitter,
    without_overlap,
)
from agentray.errors import ConfigurationError
from agentray.protocol.schedules import Missed, Overlap

BERLIN = ZoneInfo("Europe/Berlin")
T0 = datetime(2026, 1, 1, tzinfo=UTC)

zones = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",  # changes the clock at midnight
        "Australia/Lord_Howe",  # by half an hour
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Apia",  # has left out a whole day, in 2011
    ]
)
crons = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 * * * *",
        "30 2 * * *",
        "0 0 * * *",
        "15 1,2,3 * * *",
        "0-59/20 0-4 * * *",
        "0 9 * * MON-FRI",
        "0 12 1 * *",
        "0 0 29 2 *",
        "*/30 1-3 * 3,10,11 SUN",
        "59 23 L * *",
    ]
)
moments = st.integers(0, 16 * 366 * 86400).map(
    lambda s: datetime(2011, 12, 1, tzinfo=UTC) + timedelta(seconds=s)
)


@st.composite
def recurrences(draw: st.DrawFn) -> Recurrence:
    anchor = draw(moments)
    ends = st.none() | st.timedeltas(timedelta(), timedelta(days=400)).map(lambda d: anchor + d)
    start = draw(st.none() | st.just(anchor))
    if draw(st.booleans()):
        every = draw(st.timedeltas(timedelta(seconds=1), timedelta(days=40)))
        return Recurrence(ZoneInfo("UTC"), anchor, None, every, start, draw(ends))
    return Recurrence(ZoneInfo(draw(zones)), anchor, draw(crons), None, start, draw(ends))


outages = st.lists(
    st.one_of(
        st.timedeltas(timedelta(seconds=1), timedelta(seconds=90)),
        st.timedeltas(timedelta(minutes=2), timedelta(days=5)),
        st.timedeltas(timedelta(days=30), timedelta(days=400)),
    ),
    min_size=1,
    max_size=8,
)
catchings = st.builds(
    Catching,
    st.sampled_from(Missed),
    st.integers(1, 30),
    st.timedeltas(timedelta(seconds=1), timedelta(hours=2)),
)


@given(recurrences(), outages, catchings)
@settings(max_examples=100, deadline=None)
def test_each_time_fires_at_most_once_in_order_and_none_is_lost_under_all(
    rule: Recurrence, outages: list[timedelta], catching: Catching
) -> None:
    now = rule.anchor
    next_at = rule.next_after(now)
    fired: list[datetime] = []
    while next_at is not None and outages:
        now += outages.pop()
        due = rule.due(next_at, now)
        decided = decide(rule, next_at, now, catching)

        assert all(next_at <= at <= now for at in decided.times)
        assert set(decided.times) <= set(due)
        assert decided.dropped == len(due) - len(decided.times)
        assert decided.next_at is None or decided.next_at > now
        on_time = [at for at in due if now - at <= catching.grace]
        missed = due[: len(due) - len(on_time)]
        match catching.missed:
            case Missed.ALL:
                assert list(decided.times) == missed[-catching.max_missed :] + on_time
            case Missed.ONE:
                assert list(decided.times) == (due[-1:] if missed else on_time)
            case Missed.SKIP:
                assert list(decided.times) == on_time
        fired += decided.times
        next_at = decided.next_at
    assert all(one < other for one, other in pairwise(fired))
    assert len({firing_id("sched_1", at) for at in fired}) == len(fired)


@given(recurrences(), moments)
@settings(max_examples=200, deadline=None)
def test_what_comes_after_a_moment_is_later_and_within_start_and_end(
    rule: Recurrence, after: datetime
) -> None:
    times = rule.upcoming(after, 5)
    assert all(at > after for at in times)
    assert all(one < other for one, other in pairwise(times))
    assert all(rule.starts_at is None or at >= rule.starts_at for at in times)
    assert all(rule.ends_at is None or at <= rule.ends_at for at in times)
    # One by one and all at once are the same times: a restart in between changes nothing.
    assert times == [at for before in [after, *times[:-1]] if (at := rule.next_after(before))]


@given(st.integers(1, 3_000_000), st.timedeltas(timedelta(seconds=1), timedelta(hours=3)))
@settings(max_examples=50, deadline=None)
def test_of_very_many_missed_times_the_newest_are_found(count: int, every: timedelta) -> None:
    rule = Recurrence(UTC, T0, every=every)
    now = T0 + count * every
    due = rule.due(T0 + every, now)
    assert len(due) == min(count, MAX_AT_ONCE)
    assert due[-1] == now
    assert all(other - one == every for one, other in pairwise(due))


def test_a_year_of_missed_minutes_is_caught_up_from_the_newest() -> None:
    rule = Recurrence(BERLIN, T0, "* * * 1 *")  # in January only
    now = datetime(2027, 12, 1, tzinfo=UTC)
    due = rule.due(datetime(2026, 1, 1, tzinfo=UTC), now)
    assert due[-1] == datetime(2027, 1, 31, 22, 59, tzinfo=UTC)
    assert len(due) == MAX_AT_ONCE


# Changes of the clock


def local(rule: Recurrence, after: str, count: int) -> list[str]:
    begin = datetime.fromisoformat(after).replace(tzinfo=BERLIN)
    times = rule.upcoming(begin.astimezone(UTC), count)
    return [at.astimezone(BERLIN).isoformat()[:22] for at in times]


def test_a_fixed_time_that_does_not_exist_fires_right_after_the_gap() -> None:
    rule = Recurrence(BERLIN, T0, "30 2 * * *")  # at 2:00 the clock goes to 3:00
    assert local(rule, "2026-03-28T00:00", 3) == [
        "2026-03-28T02:30:00+01",
        "2026-03-29T03:00:00+02",
        "2026-03-30T02:30:00+02",
    ]


def test_several_fixed_times_of_one_gap_fire_once() -> None:
    rule = Recurrence(BERLIN, T0, "0,20,40 2 * * *")
    assert local(rule, "2026-03-29T00:00", 2) == [
        "2026-03-29T03:00:00+02",
        "2026-03-30T02:00:00+02",
    ]


def test_a_fixed_time_that_comes_twice_fires_the_first_time() -> None:
    rule = Recurrence(BERLIN, T0, "30 2 * * *")  # at 3:00 the clock goes back to 2:00
    assert local(rule, "2026-10-24T12:00", 2) == [
        "2026-10-25T02:30:00+02",
        "2026-10-26T02:30:00+01",
    ]
    begun = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)  # 2:15 for the second time
    first = rule.upcoming(begun, 1)
    assert first == [datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]


def test_every_half_hour_follows_the_time_that_passes() -> None:
    rule = Recurrence(BERLIN, T0, "*/30 * * * *")
    gap = local(rule, "2026-03-29T01:00", 3)
    assert gap == ["2026-03-29T01:30:00+01", "2026-03-29T03:00:00+02", "2026-03-29T03:30:00+02"]
    fold = local(rule, "2026-10-25T01:30", 5)
    assert fold == [
        "2026-10-25T02:00:00+02",
        "2026-10-25T02:30:00+02",
        "2026-10-25T02:00:00+01",
        "2026-10-25T02:30:00+01",
        "2026-10-25T03:00:00+01",
    ]


# Intervals, overlap, jitter


def test_an_interval_begins_at_its_start_or_one_interval_after_its_making() -> None:
    hour = timedelta(hours=1)
    assert Recurrence(UTC, T0, every=hour, starts_at=T0).next_after(T0 - hour * 24) == T0
    assert Recurrence(UTC, T0, every=hour).next_after(T0) == T0 + hour


@given(
    st.lists(moments, max_size=20).map(sorted),
    st.sampled_from(Overlap),
    st.integers(0, 30),
    st.integers(1, 10),
)
def test_overlap_keeps_the_first_ones_and_never_more_than_there_is_room_for(
    times: list[datetime], overlap: Overlap, unfinished: int, max_queued: int
) -> None:
    kept, left_out = without_overlap(times, overlap, unfinished, max_queued)
    assert list(kept) == times[: len(kept)]
    assert len(kept) + left_out == len(times)
    match overlap:
        case Overlap.ALLOW:
            assert left_out == 0
        case Overlap.SKIP:
            assert len(kept) == (0 if unfinished else min(1, len(times)))
        case Overlap.ENQUEUE:
            assert len(kept) == 0 or unfinished + len(kept) <= max_queued + 1


@given(moments, st.floats(0, 3600))
def test_jitter_is_the_same_for_everybody_and_within_its_bound(at: datetime, bound: float) -> None:
    assert timedelta(0) <= jitter("sched_1", at, bound) <= timedelta(seconds=bound)
    assert jitter("sched_1", at, bound) == jitter("sched_1", at.astimezone(BERLIN), bound)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("61 * * * *", "wrong minute"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("0 0 31 2 *", "wrong day-of-month"),
        ("0 0 * * MOON", "wrong day-of-week"),
        ("", "five fields"),
    ],
)
def test_a_wrong_expression_is_told(expression: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check_cron(expression)
