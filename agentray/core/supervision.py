"""Supervision: when something is tried again, when it is given up, and who is dead.

All of it takes the time as an argument, in seconds of any clock that does not go back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MISSES_UNTIL_DEAD = 3
"""Heartbeats in a row that a host may miss before it is killed."""


@dataclass(slots=True)
class Backoff:
    """Restarts of one thing: how long to wait before the next, or None when it is given up.

    Attributes:
        max_restarts: restarts within `period_s`; one more and it is given up. None: never.
        period_s: the window, and the quiet time after which the waits start small again.
        base_s: the first wait; each further one is twice as long.
        max_s: the longest wait.
    """

    max_restarts: int | None
    period_s: float
    base_s: float
    max_s: float
    failures: list[float] = field(default_factory=list[float])  # within the window
    streak: int = 0  # failures since the last quiet time

    def failed(self, now: float, jitter: float) -> float | None:
        """Note a failure.

        Args:
            now: when it was.
            jitter: a random number between 0 and 1; spreads the restarts of many by up to 20 %.

        Returns:
            Seconds to wait before the next attempt; None: give up.
        """
        quiet = not self.failures or now - self.failures[-1] >= self.period_s
        self.streak = 1 if quiet else self.streak + 1
        self.failures = [then for then in self.failures if now - then < self.period_s]
        self.failures.append(now)
        if self.max_restarts is not None and len(self.failures) > self.max_restarts:
            return None
        # 2**60 is beyond any max_s; the cap keeps the power from overflowing.
        wait = min(self.base_s * 2 ** min(self.streak - 1, 60), self.max_s)
        return wait * (1 + 0.2 * jitter)

    def gives_up(self, now: float) -> bool:
        """Whether another failure now would be the last one; nothing is noted."""
        within = [then for then in self.failures if now - then < self.period_s]
        return self.max_restarts is not None and len(within) >= self.max_restarts


@dataclass(slots=True)
class Heartbeats:
    """Whether a host's event loop still turns."""

    misses: int = 0

    def answered(self) -> None:
        """Note an answer: earlier misses are forgotten."""
        self.misses = 0

    def missed(self) -> bool:
        """Note a miss; True when the host must be taken for dead."""
        self.misses += 1
        return self.misses >= MISSES_UNTIL_DEAD
