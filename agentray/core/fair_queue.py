"""A queue that is served in turn by run: a run with a thousand messages does not hold back another.

Rules:
1. Messages of one run leave in the order in which they came.
2. Runs take turns, one message each. So between two messages of a run there is at most one message
   of every other run, however many these have.
3. A message that belongs to no run stands for itself: such messages keep their order among each
   other, and each waits for at most one message of every run that came before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, TypeVar, cast

M = TypeVar("M")

_NOTHING = object()


class _Lane(Generic[M]):
    """What waits of one run; most have a single message, for which a deque would be much."""

    __slots__ = ("first", "further", "run")

    def __init__(self, run: str, first: M) -> None:
        self.run = run
        self.first = first
        self.further: deque[M] | None = None

    def append(self, message: M) -> None:
        if self.further is None:
            self.further = deque()
        self.further.append(message)

    def next(self) -> bool:
        """Let the first one go; False: it was the last."""
        if not self.further:
            return False
        self.first = self.further.popleft()
        return True

    def __iter__(self) -> Iterator[M]:
        yield self.first
        yield from self.further or ()


class FairQueue(Generic[M]):
    """Messages that wait."""

    __slots__ = ("_count", "_lanes", "_ring")

    def __init__(self) -> None:
        self._ring: deque[_Lane[M] | M] = deque()  # whose turn it is, the next one first
        self._lanes: dict[str, _Lane[M]] = {}  # by run; each has a message, and is in the ring once
        self._count = 0

    def append(self, message: M, run: str | None) -> None:
        """Let a message wait.

        Args:
            message: whatever the caller keeps for a message, but no `_Lane`.
            run: that it belongs to; None: to none.
        """
        self._count += 1
        if run is None:
            self._ring.append(message)
        elif (lane := self._lanes.get(run)) is not None:
            lane.append(message)
        else:
            lane = self._lanes[run] = _Lane(run, message)
            self._ring.append(lane)

    def popleft(self) -> M:
        """Take out the message whose turn it is.

        Raises:
            IndexError: nothing waits.
        """
        entry = self._ring.popleft()
        self._count -= 1
        if not isinstance(entry, _Lane):
            return entry
        lane = cast("_Lane[M]", entry)
        message = lane.first
        if lane.next():
            self._ring.append(lane)
        else:
            del self._lanes[lane.run]
        return message

    def remove(self, message: M, run: str | None) -> None:
        """Take out a message before its turn.

        Args:
            message: that was appended.
            run: that it was appended with.

        Raises:
            ValueError: it does not wait.
        """
        if run is None:
            self._ring.remove(message)
        else:
            self._remove_of(run, message)
        self._count -= 1

    def _remove_of(self, run: str, message: M) -> None:
        lane = self._lanes.get(run)
        if lane is None:
            raise ValueError("it does not wait")
        if lane.first == message:
            if not lane.next():
                self._ring.remove(lane)
                del self._lanes[run]
        else:
            (lane.further or deque[M]()).remove(message)

    def __iter__(self) -> Iterator[M]:
        """Go through what waits, in the order in which it would leave."""
        rows = (
            cast("_Lane[M]", entry) if isinstance(entry, _Lane) else (entry,)
            for entry in self._ring
        )
        for round_ in zip_longest(*rows, fillvalue=_NOTHING):
            yield from (cast("M", message) for message in round_ if message is not _NOTHING)

    def __len__(self) -> int:
        return self._count
