"""Owned tasks: whoever starts one keeps it, hears of its error, and ends it. And cancelled ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


def being_cancelled() -> bool:
    """Whether somebody has cancelled the running task.

    User code may raise `CancelledError` by itself; that is an error like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TaskSet:
    """Tasks of one owner. An error in one is logged; `close` ends them all."""

    __slots__ = ("_expected", "_owner", "_tasks")

    def __init__(self, owner: str, *, expected: tuple[type[Exception], ...] = ()) -> None:
        """Make an empty one.

        Args:
            owner: whose.
            expected: errors that may end a task, and that nobody needs to hear of.
        """
        self._owner = owner
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None = None
    ) -> asyncio.Task[Any]:
        """Start a task that belongs to this set."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, self._expected):
            logger.error(
                "task %s of %s failed",
                task.get_name(),
                self._owner,
                exc_info=error,
                extra={"action": "task_failed", "owner": self._owner},
            )

    def cancel(self) -> None:
        """Cancel all tasks without waiting for their end."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        me = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not me]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)


async def let_out_cancellation(task: asyncio.Task[Any]) -> None:
    """Let a task be as it was before somebody cancelled a message that it was handling.

    Args:
        task: the current one. What cancels it itself meanwhile still does.
    """
    while task.uncancel():
        pass
    # `uncancel` only counts: where the handler has waited for nothing since it was cancelled, the
    # error is still to come, and must not hit the next message, or the task while it is idle.
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if task.cancelling():
            raise
