"""Rows of runs that are kept at their end only: written in the background, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from agentray.errors import PayloadError, StoreUnavailable
from agentray.protocol.runs import Run, RunEvent
from agentray.runtime.tasks import TaskSet
from agentray.store.base import EndedRun, Store
from agentray.store.run_progress import UsageWrite

logger = logging.getLogger(__name__)

WRITE_S = 0.05
"""How long rows gather, and after which it is looked again whether more of them come."""

PATIENCE_S = 0.5
"""How long they gather at most while more come: what is busy with runs has no time for rows."""

MAX_BATCH = 500
MAX_WAITING = 20_000
"""Runs that wait for a Store that is away; beyond it the oldest are lost, which is logged."""

_STORE_RETRY_S = 0.5


_Late = tuple[Run, Sequence[RunEvent], Callable[[], EndedRun]]


class LateRows:
    """Ended runs on their way to the Store."""

    def __init__(self, store: Store, tasks: TaskSet) -> None:
        self._store = store
        self._tasks = tasks
        self._waiting: OrderedDict[str, _Late] = OrderedDict()
        self._writer: asyncio.Task[None] | None = None

    def add(self, run: Run, events: Sequence[RunEvent], row: Callable[[], EndedRun]) -> None:
        """Keep a run that has ended.

        Args:
            run: as it ended.
            events: its events.
            row: gives what is written of it, when it is.
        """
        self._waiting[run.id] = (run, events, row)
        if len(self._waiting) > MAX_WAITING:
            lost, _ = self._waiting.popitem(last=False)
            logger.error("the row of a run is lost", extra={"action": "row_lost", "run": lost})
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.spawn(self._write_all(), name="rows of ended runs")

    def find(self, run_id: str) -> tuple[Run, Sequence[RunEvent]] | None:
        """Return a run that is on its way, and its events."""
        known = self._waiting.get(run_id)
        return None if known is None else known[:2]

    async def _write_all(self) -> None:
        waiting = 0
        for _ in range(int(PATIENCE_S / WRITE_S)):
            if len(self._waiting) == waiting:
                break
            waiting = len(self._waiting)
            await asyncio.sleep(WRITE_S)
        await self.flush()

    async def flush(self) -> None:
        """Write what is there."""
        while self._waiting:
            batch = list(self._waiting.items())[:MAX_BATCH]
            try:
                await self._write([row() for _, (_, _, row) in batch])
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "rows_wait"})
                await asyncio.sleep(_STORE_RETRY_S)
                continue
            for run_id, _ in batch:
                self._waiting.pop(run_id, None)

    async def _write(self, batch: Sequence[EndedRun]) -> None:
        try:
            await self._store.keep_ended(batch)
            used = [UsageWrite(e.new.id, 1, e.usage) for e in batch if e.usage is not None]
            if used:
                await self._store.put_usage(used)
        except PayloadError as error:
            if len(batch) > 1:  # one of them cannot be written: find it
                for ended in batch:
                    await self._write([ended])
                return
            extra = {"action": "row_refused", "run": batch[0].new.id}
            logger.error("the end of a run cannot be kept: %s", error, extra=extra)
