"""The mailbox of one agent: what may run now, what waits, what is refused.

Rules:
1. At most `concurrency` messages are handled at once (None: any number); the rest waits in the
   order in which it came. In a `FairMailbox` runs take turns, see `core.fair_queue`.
2. A message whose call chain already holds this agent runs at once: its outer turn waits for it,
   and would wait for ever otherwise.
3. At most `limit` messages wait; the next one is refused. Nothing waits unbounded. An agent's own
   turns, of which each of its loops and timers has one at most, wait beyond that, as do prompts:
   their runs are kept, and were bounded where they were accepted.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar, cast

from agentray.core.fair_queue import FairQueue

M = TypeVar("M")


class Offer(Enum):
    """What became of an offered message."""

    RUN = auto()  # handle it now
    QUEUED = auto()  # it waits
    REFUSED = auto()  # there is no room


# Members of an enum are looked up through its class, which shows at this rate.
_RUN, _QUEUED, _REFUSED = Offer.RUN, Offer.QUEUED, Offer.REFUSED


class Mailbox(Generic[M]):
    """Turns of one agent; what waits gets them in the order in which it came."""

    __slots__ = ("_limit", "_room", "_waiting")

    def __init__(self, concurrency: int | None, limit: int) -> None:
        self._room = concurrency  # turns that are free; None: any number
        self._limit = limit
        # Most agents are idle most of the time: a deque is 600 bytes, None is nothing.
        self._waiting: deque[M] | FairQueue[M] | None = None

    def offer(self, message: M, reentrant: bool = False, own: bool = False) -> Offer:
        """Take a message in.

        Args:
            message: whatever the caller keeps for a message.
            reentrant: its call chain holds this agent; it takes no turn (rule 2). Do not call
                `finished` for it.
            own: it is not refused (rule 3).
        """
        if reentrant or self._room is None:
            return _RUN
        if self._room > 0 and not self._waiting:
            self._room -= 1
            return _RUN
        if len(self._waiting or ()) >= self._limit and not own:
            return _REFUSED
        self._append(message)
        return _QUEUED

    def finished(self) -> M | None:
        """End a turn; return the waiting message that gets it, None when nothing waits."""
        if self._room is None:
            return None
        if self._waiting:
            return self._waiting.popleft()
        self._room += 1
        return None

    def withdraw(self, message: M) -> bool:
        """Take back a message that waits; False when it does not (any more)."""
        try:
            self._remove(message)
        except ValueError:
            return False
        return True

    def clear(self) -> list[M]:
        """Take out everything that waits, in the order in which it would get its turn."""
        waiting, self._waiting = list(self._waiting or ()), None
        return waiting

    def __len__(self) -> int:
        return len(self._waiting) if self._waiting else 0

    def _append(self, message: M) -> None:
        if self._waiting is None:
            self._waiting = deque()
        cast("deque[M]", self._waiting).append(message)

    def _remove(self, message: M) -> None:
        cast("deque[M]", self._waiting or deque()).remove(message)


class FairMailbox(Mailbox[M]):
    """Turns of one agent; what waits gets them in turn by run.

    No larger than the other while nothing waits: what it does differently is in its class.
    """

    __slots__ = ()

    def run_of(self, message: M) -> str | None:
        """Return the run that a message belongs to; None: to none. Always the same for it."""
        raise NotImplementedError

    def _append(self, message: M) -> None:
        # While all that waits is of one run, or of none, any queue is fair: the plainest will do.
        waiting = self._waiting
        if not waiting:
            if type(waiting) is not deque:
                waiting = self._waiting = deque()
            waiting.append(message)
            return
        run = self.run_of(message)
        if isinstance(waiting, deque):
            if self.run_of(waiting[-1]) == run:
                waiting.append(message)
                return
            before, waiting = waiting, FairQueue[M]()
            self._waiting = waiting
            for earlier in before:
                waiting.append(earlier, self.run_of(earlier))
        waiting.append(message, run)

    def _remove(self, message: M) -> None:
        waiting = self._waiting
        if isinstance(waiting, FairQueue):
            waiting.remove(message, self.run_of(message))
        else:
            super()._remove(message)
