"""Deadlines of many messages, for the price of one comparison each.

A timer per message would cost as much as sending it, and most messages end long before their
deadline. So a message whose deadline is far is only looked at by a sweep, twice a second, over what
is still open then; one whose deadline is near gets onto a heap, with one timer for the soonest.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable

from agentray.runtime.message import Message

NEAR_S = 1.0
"""A deadline sooner than this is waited for exactly."""

SWEEP_S = 0.5


class Deadlines:
    """Calls back for each message that is still open when its deadline has passed."""

    __slots__ = ("_heap", "_loop", "_near", "_on_expired", "_open", "_sweeper", "_tie", "_timer")

    def __init__(
        self, on_expired: Callable[[Message], None], open_messages: Callable[[], Iterable[Message]]
    ) -> None:
        """Watch over messages.

        Args:
            on_expired: called with a message whose deadline has passed.
            open_messages: returns the messages that have not ended.
        """
        self._on_expired = on_expired
        self._open = open_messages
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Message]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._tie = 0
        self._near: set[Message] = set()  # those on the heap

    def add(self, message: Message, now: float) -> None:
        """Watch a message that is about to be sent; one without a deadline needs no watching."""
        deadline = message.deadline
        if deadline is None:
            return
        if deadline - now < NEAR_S:
            self._watch(message, deadline)
        elif self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _watch(self, message: Message, deadline: float) -> None:
        self._near.add(message)
        self._tie += 1
        heapq.heappush(self._heap, (deadline, self._tie, message))
        self._arm()

    def _sweep(self) -> None:
        self._sweeper = None
        near = self._loop.time() + NEAR_S
        far = False
        for message in list(self._open()):
            if message.deadline is None or message.closed or message in self._near:
                continue
            if message.deadline < near:
                self._watch(message, message.deadline)
            else:
                far = True
        if far and self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

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
            self._near.discard(message)
            # A message that got its value, but is not settled yet, has lost its deadline.
            if not message.closed and message.deadline is not None:
                self._on_expired(message)
        if self._heap:
            self._arm()

    def close(self) -> None:
        """Stop watching."""
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._heap.clear()
        self._near.clear()
