"""Group commit: many callers, one transaction.

While one batch is being committed, the items that arrive gather and leave together as the next.
So an idle system adds no delay, and a busy one pays for one commit instead of hundreds.

Three rules, because callers may be cancelled at any await:
1. The commit runs in a task of its own. A cancelled caller stops neither its batch nor another.
2. What was submitted is committed, also when nobody waits for the answer any more.
3. An error of the batch reaches every caller in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from agentray.errors import ChannelClosed, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


PATIENCE_S = 0.01
"""How long batches wait at most. Under load, that halves the number of transactions; what is
committed while the event loop has nothing else to do waits for nothing."""

_IDLE_S = 0.00002
"""A turn of the event loop that takes no longer did nothing else."""


class GroupCommit(Generic[Item, Result]):
    """Gathers single items into batches, one batch under way at a time.

    Belongs to the event loop in which it is first used.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        name: str,
        max_batch: int = 256,
        max_waiting: int = 10_000,
        patience_s: float = 0.0,
    ) -> None:
        """Make one.

        Args:
            commit: commits a batch and returns one result per item, in the order given; an
                exception among them is raised for its own item only.
            name: what is committed, for task names and errors.
            max_batch: most items of one commit.
            max_waiting: most items that may gather before `submit` refuses more.
            patience_s: how long a batch waits at most while the event loop has other work, which
                may bring more items: what the batch before has let go on, or what has come in one
                message with the first.
        """
        self._commit = commit
        self._name = name
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._patience_s = patience_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: Item) -> Result:
        """Commit an item together with others and return its result.

        Cancelling the call gives up the answer, not the commit.

        Raises:
            Overloaded: `max_waiting` items wait already.
            ChannelClosed: `close` was called.
            Exception: whatever the commit of the batch raised.
        """
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Result]:
        """Let an item be committed together with others; return what its result comes with.

        Raises:
            Overloaded: `max_waiting` items wait already.
            ChannelClosed: `close` was called.
        """
        if self._closed:
            raise ChannelClosed(f"{self._name} is closed.")
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(self._name)
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._drain(), name=self._name)
        return answer

    async def close(self) -> None:
        """Take no more items, and return when all that were taken are committed."""
        self._closed = True
        if self._worker is not None:
            await asyncio.wait((self._worker,))

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                size = min(len(self._waiting), self._max_batch)
                await self._commit_batch([self._waiting.popleft() for _ in range(size)])
        finally:
            # No await since the queue was seen empty, so no item can be left without a worker.
            self._worker = None
            _cancel(self._waiting)
            self._waiting.clear()

    async def _gather(self) -> None:
        """Let the next batch grow. Meanwhile the loop is as busy as it would be anyway."""
        now = time.perf_counter()
        latest = now + self._patience_s
        while now < latest and len(self._waiting) < self._max_batch:
            looked_at = now
            await asyncio.sleep(0)
            now = time.perf_counter()
            if now - looked_at < _IDLE_S:
                return

    async def _commit_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
            pairs = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:  # the event loop is going down
            _cancel(batch)
            raise
        except Exception as error:  # noqa: BLE001 - each waiter gets it, whatever it is
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), result in pairs:
            if answer.done():
                continue  # its caller was cancelled
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


def _cancel(batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
    """Release callers whose items will not be committed any more."""
    for _, answer in batch:
        answer.cancel()
