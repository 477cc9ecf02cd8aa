"""Times on the command line."""

from __future__ import annotations

import re
from datetime import datetime

from agentray.errors import ConfigurationError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float | None:
    """Return a span of time as seconds; None: it is none."""
    span = _SPAN.fullmatch(text)
    return float(span[1]) * _SECONDS[span[2]] if span else None


def read_seconds(option: str, text: str) -> float:
    """Return a span of time as seconds.

    Raises:
        ConfigurationError: it is none.
    """
    seconds = seconds_of(text)
    if seconds is None:
        raise ConfigurationError(f"{option} {text}: write 90s, 15m, 2h or 3d.")
    return seconds


def read_time(option: str, text: str) -> datetime:
    """Return a time; one without a zone is one of this machine's.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise ConfigurationError(
            f"{option} {text}: write a time as 2026-01-31T12:00, or with its zone as "
            "2026-01-31T12:00+01:00."
        ) from error
