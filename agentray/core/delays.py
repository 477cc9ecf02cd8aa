"""When a run begins that is not to begin at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from agentray.errors import ConfigurationError
from agentray.protocol.moments import LAST

MAX_DELAY_S = 10 * 366 * 86400.0
"""About ten years: more is a mistake."""


def begin_at(delay_s: Any, at: Any, now: datetime) -> datetime | None:
    """Return when a run may begin, in UTC; None: at once.

    Args:
        delay_s: seconds from now; None: not said.
        at: an aware time; one that is over means at once, None: not said.
        now: the time.

    Raises:
        ConfigurationError: both are said, or one of them is no such thing.
    """
    if delay_s is not None and at is not None:
        raise ConfigurationError("Say when a run begins with delay_s or with at, not with both.")
    if delay_s is not None:
        if not (isinstance(delay_s, int | float) and 0 <= delay_s <= MAX_DELAY_S):
            raise ConfigurationError(
                f"delay_s={delay_s!r}: write seconds, from 0 to {MAX_DELAY_S:.0f}."
            )
        return now + timedelta(seconds=delay_s)
    if at is None:
        return None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ConfigurationError(
            f"at={at!r}: write a time with its zone, as datetime.now(UTC) + timedelta(hours=1)."
        )
    try:
        begin = at.astimezone(UTC)
    except OverflowError:  # at an end of the calendar, in another zone
        begin = None
    if begin is None or begin > LAST:
        raise ConfigurationError(f"at={at.isoformat()}: write a time before the year {LAST.year}.")
    return begin
