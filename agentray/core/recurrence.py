"""When a schedule fires, and what becomes of firings that were missed or meet an unfinished run.

Times are aware and given in UTC. A cron expression is read in the schedule's time zone, by cronsim,
as Debian's cron does around changes of the clock:

- Where minute and hour are both fixed, a time that the clock leaves out fires right after the gap
  (all such times of one gap once), and a time that comes twice fires once, the first time.
- Where one of them begins with `*`, the schedule follows the time that passes: nothing fires in the
  gap, and the hour that comes twice fires twice.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count, islice, takewhile

from cronsim import CronSim, CronSimError

from agentray.errors import ConfigurationError
from agentray.protocol.schedules import Missed, Overlap

MAX_AT_ONCE = 1000
"""Firings of one schedule that are decided about together; of more, the oldest are missed."""

_CRON_FIELDS = 5
_MICROSECOND = timedelta(microseconds=1)


def check_cron(expression: str) -> None:
    """Check a cron expression.

    Raises:
        ConfigurationError: it has not five fields, one of them is wrong, or it names no time.
    """
    if len(expression.split()) != _CRON_FIELDS:
        raise ConfigurationError(
            "write five fields: minute, hour, day of the month, month, day of the week"
        )
    try:
        found = next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        raise ConfigurationError(str(error).lower().replace("bad ", "wrong ")) from error
    if found is None:
        raise ConfigurationError("no day is ever like that")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The times of a schedule.

    Attributes:
        tz: in which `cron` is read.
        anchor: from which `every` is counted; it is a time itself when it is the start.
        cron: five fields; None: `every`.
        every: between two times; None: `cron`.
        starts_at: no time is before it.
        ends_at: no time is after it.
    """

    tz: tzinfo
    anchor: datetime
    cron: str | None = None
    every: timedelta | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def times(self, after: datetime) -> Iterator[datetime]:
        """Go through the times after a moment, in order."""
        if self.starts_at is not None and after < self.starts_at:
            after = self.starts_at - _MICROSECOND
        found = self._cron_times(after) if self.every is None else self._steps(after, self.every)
        return takewhile(lambda at: self.ends_at is None or at <= self.ends_at, found)

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first time after a moment; None: there is none any more."""
        return next(self.times(after), None)

    def _cron_times(self, after: datetime) -> Iterator[datetime]:
        last = after
        for local in CronSim(self.cron or "", after.astimezone(self.tz)):
            at = local.astimezone(UTC)
            # In an hour that comes twice cronsim goes on with its first pass: that is over.
            if at > last:
                yield at
                last = at

    def _steps(self, after: datetime, every: timedelta) -> Iterator[datetime]:
        steps = max((after - self.anchor) // every + 1, 0)
        return (self.anchor + n * every for n in count(steps))

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next times after a moment, at most `count`."""
        return list(islice(self.times(after), count))

    def due(self, first: datetime, now: datetime) -> list[datetime]:
        """Return the times from `first` to `now`; of more than `MAX_AT_ONCE`, the newest."""
        if first > now:
            return []
        times = [first, *islice(self._until(now, first), MAX_AT_ONCE)]
        if len(times) > MAX_AT_ONCE:
            times += self._newest(times[-1], now)
        return times[-MAX_AT_ONCE:]

    def _until(self, now: datetime, after: datetime) -> Iterator[datetime]:
        return takewhile(lambda at: at <= now, self.times(after))

    def _newest(self, after: datetime, now: datetime) -> list[datetime]:
        """Return the newest times after a moment, without going through all of them."""
        span = (self.every or timedelta(minutes=1)) * MAX_AT_ONCE
        while True:
            begin = max(after, now - span)
            times = deque(self._until(now, begin), maxlen=MAX_AT_ONCE)
            if begin == after or len(times) == MAX_AT_ONCE:
                return list(times)
            span *= 2


@dataclass(frozen=True, slots=True)
class Catching:
    """What a schedule does about firings that come late.

    Attributes:
        missed: which of them still fire.
        max_missed: most of them, the newest, for `all`.
        grace: a firing that is no later than this has not been missed.
    """

    missed: Missed = Missed.ONE
    max_missed: int = 100
    grace: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Firings:
    """What a schedule does now.

    Attributes:
        times: that fire, in order.
        dropped: how many were missed and do not fire; of very many, at least.
        next_at: when it is looked at again; None: it is over.
    """

    times: tuple[datetime, ...]
    dropped: int
    next_at: datetime | None


def decide(rule: Recurrence, next_at: datetime, now: datetime, catching: Catching) -> Firings:
    """Decide which firings happen now.

    Args:
        rule: the times of the schedule.
        next_at: the first one about which nothing was decided.
        now: the time.
        catching: what to do about late ones.
    """
    due = rule.due(next_at, now)
    if not due:
        return Firings((), 0, next_at)
    missed = [at for at in due if now - at > catching.grace]
    on_time = due[len(missed) :]
    match catching.missed:
        case Missed.SKIP:
            times = on_time
        case Missed.ONE:
            times = due[-1:] if missed else on_time
        case Missed.ALL:
            times = missed[len(missed) - min(catching.max_missed, len(missed)) :] + on_time
    return Firings(tuple(times), len(due) - len(times), rule.next_after(due[-1]))


def without_overlap(
    times: Sequence[datetime], overlap: Overlap, unfinished: int, max_queued: int
) -> tuple[tuple[datetime, ...], int]:
    """Leave out firings that meet unfinished runs of the same schedule.

    Args:
        times: that are to fire now, in order.
        overlap: what the schedule says of it.
        unfinished: earlier runs of the schedule that have not ended.
        max_queued: runs that may wait behind the one under way.

    Returns:
        Those that fire, and how many do not.
    """
    match overlap:
        case Overlap.ALLOW:
            room = len(times)
        case Overlap.SKIP:
            room = 0 if unfinished else 1
        case Overlap.ENQUEUE:
            room = max(0, max_queued + 1 - unfinished)
    kept = tuple(times[:room])
    return kept, len(times) - len(kept)


def firing_id(uid: str, at: datetime) -> str:
    """Return the id of the run of one firing: the same whoever fires it, and however often.

    Args:
        uid: of the schedule, never used again.
        at: the firing's time.
    """
    milliseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return f"run_{milliseconds:012x}{_digest(uid, at)[:16]}"


def jitter(uid: str, at: datetime, jitter_s: float) -> timedelta:
    """Return how much later than its time a firing begins: the same whenever it is asked."""
    share = int(_digest(f"jitter/{uid}", at)[:13], 16) / 16**13
    return timedelta(seconds=share * jitter_s)


def _digest(uid: str, at: datetime) -> str:
    return hashlib.sha256(f"{uid}/{at.astimezone(UTC).isoformat()}".encode()).hexdigest()
