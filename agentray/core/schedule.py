"""When a timer is due: a fixed schedule, in which ticks may fall out but never pile up."""

from __future__ import annotations

import math


def next_tick(due: float, period: float, now: float) -> tuple[float, int]:
    """Return when the tick after this one is due, and how many fell out in between.

    Args:
        due: when this tick was due.
        period: seconds between two ticks; more than 0.
        now: when it ended. A tick that is due just now has not fallen out.

    Returns:
        The first moment `due + n * period`, n ≥ 1, that is not before `now`; and n - 1.
    """
    late = (now - due) / period
    steps = max(1, math.ceil(late))
    return due + steps * period, steps - 1
