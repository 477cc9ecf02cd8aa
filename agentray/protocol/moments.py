"""Times as callers say them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC, this is beyond the end of the calendar") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its offset from UTC, which is kept as UTC."""

LAST = datetime(9000, 1, 1, tzinfo=UTC)
"""Nothing begins later: time for a deadline is left after it, and the calendar goes on."""


def _in_time(at: datetime) -> datetime:
    if at > LAST:
        raise ValueError(f"write a time before the year {LAST.year}")
    return at


Beginning = Annotated[Moment, AfterValidator(_in_time)]
"""When something begins."""
