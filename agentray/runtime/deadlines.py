"""Deadlines of many messages with one timer.

A timer per message would cost as much as sending it. Here a message costs one push onto a heap;
most end long before their deadline and are thrown out in bulk.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from agentray.runtime.link import Message

_SWEEP_ABOVE = 1024


class Deadlines:
    """Calls back for each message that is still open when its deadline has passed."""

    __slots__ = ("_closed", "_heap", "_loop", "_on_expired", "_tie", "_timer")

    def __init__(self, on_expired: Callable[[Message], None]) -> None:
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Message]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tie = 0
        self._closed = 0  # messages in the heap that have ended, roughly

    def add(self, message: Message) -> None:
        """Watch a message that has a deadline."""
        if message.deadline is None:
            return
        self._tie += 1
        heapq.heappush(self._heap, (message.deadline, self._tie, message))
        self._arm()

    def closed(self) -> None:
        """Note that a watched message has ended."""
        self._closed += 1
        if self._closed > _SWEEP_ABOVE and self._closed * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].closed]
            heapq.heapify(self._heap)
            self._closed = 0

    def _arm(self) -> None:
        soonest = self._heap[0][0]
        if self._timer is not None:
            if self._timer.when() <= soonest:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(soonest, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].closed):
            message = heapq.heappop(self._heap)[2]
            # A message that got its value, but is not settled yet, has lost its deadline.
            if not message.closed and message.deadline is not None:
                self._on_expired(message)
        if self._heap:
            self._arm()

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()
