"""What a run that is durable per step uses, as the host sees it that works on it.

Each step's commit adds what it has used to the run, and ends the run that has used too much. The
time is this host's to count; and so that a handler is stopped which has no end of spending, it is
told beforehand what handlers under way have used.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentray.core.budgets import exceeded
from agentray.protocol.budgets import Budget, Usage
from agentray.runtime.run_budget import Account

_NOTHING = Usage()


class StepAccount(Account):
    """The account of such a run.

    Attributes:
        under_way: what messages have used that are not committed, as far as is known, by number.
    """

    __slots__ = ("_committed", "_done", "under_way")

    only_time = True

    def __init__(self, budget: Budget | None, before: Usage | None) -> None:
        """Make one; see `Account`."""
        super().__init__(budget, before)
        self._committed = before or _NOTHING
        self.under_way: dict[int, Usage] = {}
        self._done: set[int] = set()

    def note(self, committed: Usage | None, messages: Mapping[int, Usage | None]) -> None:
        """Take note of what was told, in whatever order it comes.

        Args:
            committed: what the run had used after some commit; None: as much as before.
            messages: what each has used by now; None: it is committed.
        """
        if committed is not None:
            self._committed = _most(self._committed, committed)
        for number, used in messages.items():
            if used is None:
                self._done.add(number)
                self.under_way.pop(number, None)
            elif number not in self._done:
                self.under_way[number] = used

    @property
    def counts(self) -> bool:
        """Whether anything is counted for the run."""
        return super().counts or self._committed is not _NOTHING

    def usage(self, now: float) -> Usage | None:
        """Return what the run has used that is committed, and its time; None: nobody counts."""
        if not self.counts:
            return None
        before_s = 0.0 if self._before is None else self._before.wall_s
        return self._committed.model_copy(update={"wall_s": before_s + self._worked_s(now)})

    def exceeded(self, now: float) -> str | None:
        """Return which limit is exceeded, with what is under way, in words; None: none of them."""
        usage = self.usage(now)
        if self.budget is None or usage is None:
            return None
        for used in self.under_way.values():
            usage = usage.plus(used)
        return exceeded(self.budget, usage)


def _most(one: Usage, other: Usage) -> Usage:
    return Usage(
        tokens=max(one.tokens, other.tokens),
        tool_calls=max(one.tool_calls, other.tool_calls),
        cost=max(one.cost, other.cost),
    )
