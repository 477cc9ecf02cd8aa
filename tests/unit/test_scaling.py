"""Scaling: a pool follows its load, within its limits, and does not flap."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.scaling import (
    GROW_AFTER_S,
    ROOMY,
    SHRINK_AFTER_S,
    Limits,
    Scale,
    next_scale,
)


def limits_of(least: int, more: int, per_host: float) -> Limits:
    return Limits(least, least + more, per_host)


limits_strategy = st.builds(limits_of, st.integers(1, 4), st.integers(0, 6), st.floats(0.5, 64))
loads = st.floats(0, 400)


@dataclass
class Watched:
    """A pool that is observed once a second; remembers why it changed."""

    limits: Limits
    scale: Scale
    now: float = 0.0
    seen: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    changes: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])

    def observe(self, load: float, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += 1
            self.seen.append((self.now, load))
            before = self.scale.wanted
            self.scale = next_scale(self.scale, self.limits, load, self.now)
            if self.scale.wanted != before:
                self.changes.append((self.now, before, self.scale.wanted))

    def during(self, seconds: float) -> list[float]:
        return [load for then, load in self.seen if then >= self.now - seconds]


def at_least(limits: Limits) -> Watched:
    return Watched(limits, Scale(limits.least))


@settings(deadline=None, max_examples=200)
@given(
    limits=limits_strategy,
    history=st.lists(st.tuples(loads, st.integers(1, 90)), min_size=1, max_size=8),
)
def test_each_change_had_its_reason_for_long_enough(
    limits: Limits, history: list[tuple[float, int]]
) -> None:
    pool = at_least(limits)
    for load, seconds in history:
        for _ in range(seconds):
            known = len(pool.changes)
            pool.observe(load)
            assert limits.least <= pool.scale.wanted <= limits.most
            if len(pool.changes) == known:
                continue
            _, before, after = pool.changes[-1]
            if after > before:
                need = [math.ceil(one / limits.load_per_host) for one in pool.during(GROW_AFTER_S)]
                assert min(need) >= after, "it grows to what was needed all the time, no further"
            else:
                fits = after * limits.load_per_host * ROOMY
                assert all(one <= fits + 1e-6 for one in pool.during(SHRINK_AFTER_S))


@settings(deadline=None, max_examples=200)
@given(limits=limits_strategy, before=loads, load=loads)
def test_under_a_load_that_stays_a_pool_changes_once_and_then_rests(
    limits: Limits, before: float, load: float
) -> None:
    pool = at_least(limits)
    pool.observe(before, 10)
    pool.changes.clear()
    pool.observe(load, 300)
    assert len(pool.changes) <= 1
    needed = math.ceil(load / limits.load_per_host)
    assert pool.scale.wanted >= min(needed, limits.most), "it has what it needs"


@settings(deadline=None, max_examples=100)
@given(limits=limits_strategy, load=loads, swing=st.floats(0.86, 1.0))
def test_a_load_that_swings_a_little_never_makes_it_go_up_and_down(
    limits: Limits, load: float, swing: float
) -> None:
    pool = at_least(limits)
    for _ in range(40):
        pool.observe(load, 70)
        pool.observe(load * swing, 70)
    ups = [after > before for _, before, after in pool.changes]
    assert ups.count(True) * ups.count(False) == 0


def test_a_burst_that_is_over_at_once_starts_nothing() -> None:
    pool = at_least(Limits(1, 8, 10))
    pool.observe(500, 2)
    pool.observe(5, 100)
    assert pool.changes == []


def test_it_grows_at_once_to_what_is_needed_and_shrinks_after_a_quiet_time() -> None:
    pool = at_least(Limits(1, 8, 10))
    pool.observe(35, 3)
    assert pool.scale.wanted == 4
    pool.observe(5, int(SHRINK_AFTER_S))
    assert pool.scale.wanted == 4
    pool.observe(5)
    assert pool.scale.wanted == 1


def test_work_in_the_quiet_time_keeps_the_hosts_that_it_needs() -> None:
    pool = at_least(Limits(1, 8, 10))
    pool.observe(80, 3)
    pool.observe(0, 30)
    pool.observe(20, 1)
    pool.observe(0, 31)
    assert pool.scale.wanted == 3


@pytest.mark.parametrize(("limits", "wanted"), [(Limits(3, 5, 1), 3), (Limits(1, 2, 1), 2)])
def test_other_limits_hold_at_once(limits: Limits, wanted: int) -> None:
    start = 1 if wanted == 3 else 4
    assert next_scale(Scale(start), limits, 0, 0.0).wanted == wanted
