"""What a run uses while it is worked on here, and how much it may."""

from __future__ import annotations

from agentray.core.budgets import exceeded
from agentray.protocol.budgets import Budget, Usage

_TICK_S = 1.0
"""How exactly the time of work is kept: what a host's death takes of it is not more."""


_NOTHING = Usage()


class Account:
    """The account of one attempt; it goes on where the one before was last kept.

    A run without a budget that spends nothing has none: it costs nothing.
    """

    __slots__ = ("_before", "_began", "_ended", "_kept", "_spent", "budget")

    only_time = False
    """Whether only the time is kept by the run's host."""

    def __init__(self, budget: Budget | None, before: Usage | None) -> None:
        """Make one.

        Args:
            budget: of the run; None: it has none.
            before: what it had used when this attempt was taken up; None: nothing was counted.
        """
        self.budget = budget
        self._before = before
        self._began: float | None = None
        self._ended: float | None = None
        self._spent = _NOTHING
        self._kept: Usage | None = None

    def begin(self, now: float) -> None:
        """Begin to count the time of work; in seconds of the event loop's clock."""
        self._began = now

    def end(self, now: float) -> None:
        """Count no more time."""
        if self._ended is None:
            self._ended = now

    def spend(self, spent: Usage) -> None:
        """Count what was used."""
        if spent != _NOTHING:
            self._spent = self._spent.plus(spent)

    @property
    def counts(self) -> bool:
        """Whether anything is counted for the run."""
        return self.budget is not None or self._before is not None or self._spent is not _NOTHING

    def usage(self, now: float) -> Usage | None:
        """Return what the run has used, all of its attempts together; None: nobody counts."""
        if not self.counts:
            return None
        used = (self._before or _NOTHING).plus(self._spent)
        return used.plus(Usage(wall_s=self._worked_s(now)))

    def _worked_s(self, now: float) -> float:
        end = now if self._ended is None else self._ended
        return 0.0 if self._began is None else max(0.0, end - self._began)

    def exceeded(self, now: float) -> str | None:
        """Return which limit is exceeded, in words; None: none of them."""
        usage = None if self.budget is None else self.usage(now)
        return None if self.budget is None or usage is None else exceeded(self.budget, usage)

    def left_s(self, now: float) -> float | None:
        """Return how many seconds of work are left; None: as many as it takes, or it is done."""
        usage = self.usage(now)
        if self.budget is None or self.budget.wall_s is None or usage is None:
            return None
        if self._ended is not None:
            return None
        return max(0.0, self.budget.wall_s - usage.wall_s)

    def to_save(self, now: float) -> Usage | None:
        """Return what is to be kept now; None: what is kept will do."""
        usage, kept = self.usage(now), self._kept
        if usage is None or usage == kept:
            return None
        still = kept is not None and self._ended is None and usage.wall_s < kept.wall_s + _TICK_S
        same = kept is not None and usage.model_copy(update={"wall_s": kept.wall_s}) == kept
        return None if still and same else usage

    def saved(self, usage: Usage) -> None:
        """Note what is kept."""
        self._kept = usage
