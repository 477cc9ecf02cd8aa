"""The mailbox of one agent: what may run now, what waits, what is refused.

Rules:
1. At most `concurrency` messages are handled at once (None: any number); the rest waits in the
   order in which it came.
2. A message whose call chain already holds this agent runs at once: its outer turn waits for it,
   and would wait for ever otherwise.
3. At most `limit` messages wait; the next one is refused. Nothing waits unbounded. An agent's own
   turns, of which each of its loops and timers has one at most, wait beyond that.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar

M = TypeVar("M")


class Offer(Enum):
    """What became of an offered message."""

    RUN = auto()  # handle it now
    QUEUED = auto()  # it waits
    REFUSED = auto()  # there is no room


class Mailbox(Generic[M]):
    """Turns of one agent."""

    __slots__ = ("_limit", "_room", "_waiting")

    def __init__(self, concurrency: int | None, limit: int) -> None:
        self._room = concurrency  # turns that are free; None: any number
        self._limit = limit
        # Most agents are idle most of the time: a deque is 600 bytes, None is nothing.
        self._waiting: deque[M] | None = None

    def offer(self, message: M, *, reentrant: bool = False, own: bool = False) -> Offer:
        """Take a message in.

        Args:
            message: whatever the caller keeps for a message.
            reentrant: its call chain holds this agent; it takes no turn (rule 2). Do not call
                `finished` for it.
            own: the agent sends it to itself; it is not refused (rule 3).
        """
        if reentrant or self._room is None:
            return Offer.RUN
        if self._room > 0 and not self._waiting:
            self._room -= 1
            return Offer.RUN
        if self._waiting is None:
            self._waiting = deque()
        if len(self._waiting) >= self._limit and not own:
            return Offer.REFUSED
        self._waiting.append(message)
        return Offer.QUEUED

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
            (self._waiting or deque[M]()).remove(message)
        except ValueError:
            return False
        return True

    def clear(self) -> list[M]:
        """Take out everything that waits."""
        waiting, self._waiting = list(self._waiting or ()), None
        return waiting

    def __len__(self) -> int:
        return len(self._waiting) if self._waiting else 0
