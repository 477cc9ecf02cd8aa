"""What is written of runs while they go on: that they have begun, their events, what they used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agentray.errors import Fenced, StoreUnavailable
from agentray.event_loop import time_of_day
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.step_run import StepRun
from agentray.store.base import CommitOutcome
from agentray.store.run_progress import UsageWrite

if TYPE_CHECKING:
    from agentray.runtime.run_book import RunBook

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""How often events of runs under way are written."""

QUIET_S = 0.2
"""How long a run goes on that has told nothing, before that it has begun is written. One that is
shorter costs one commit in all."""

_STORE_RETRY_S = 0.5


class RunProgress:
    """Writes it for one host, while runs that are in the Store are under way."""

    def __init__(self, book: RunBook) -> None:
        self._book = book
        self._flusher: asyncio.Task[None] | None = None
        self._writing: dict[ActiveRun, asyncio.Future[None]] = {}

    def begin(self) -> None:
        """Write every now and then from now on, as long as there are such runs."""
        if self._flusher is None or self._flusher.done():
            flushing = self._flush_while_active()
            self._flusher = self._book.spawn(flushing, name="flush run events")

    async def _flush_while_active(self) -> None:
        while self._book.durable:
            # Those that are as old as a turn of this loop: where the host is slow, all runs are.
            due = time_of_day()
            await asyncio.sleep(FLUSH_S)
            try:
                await self._flush(due)
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "run_flush_waits"})
                await asyncio.sleep(_STORE_RETRY_S)

    async def _flush(self, due: datetime) -> None:
        """Write what is to be told of runs that began before a time and have not ended."""
        runs = [
            run
            for run in self._book.durable
            if run.started_at <= due and not run.is_ending and not self._book.waits(run)
        ]
        await self._put_usage(runs)
        long_ago = due - timedelta(seconds=QUIET_S - FLUSH_S)
        runs = [run for run in runs if run.started_at <= long_ago or not run.log.only_begun]
        started = {run.run.id: run.started_at for run in runs if not run.marked}
        if started:
            await self._book.store.mark_running(started, self._book.host_id)
            for run in runs:
                run.marked = True
        await asyncio.gather(*(self._write_events(run) for run in runs))

    async def _put_usage(self, runs: Sequence[ActiveRun]) -> None:
        now = self._book.host.now()
        used = [(run, usage) for run in runs if (usage := run.account.to_save(now)) is not None]
        if used:
            writes = [
                UsageWrite(run.run.id, run.run.attempt, usage, run.account.only_time)
                for run, usage in used
            ]
            await self._book.store.put_usage(writes)
        for run, usage in used:
            run.account.saved(usage)

    async def save_usage(self, runs: Sequence[ActiveRun]) -> None:
        """Keep what runs have used, before anything is written that follows from it."""
        while True:
            try:
                await self._put_usage([run for run in runs if run.durable])
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "commit_waits"})
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                return

    async def _write_events(self, run: ActiveRun) -> None:
        try:
            if isinstance(run, StepRun):
                await run.write_events()
                return
            effects = run.take_pending()
        except Fenced:
            run.lose()
            return
        if effects is None:
            return
        writing = self._writing[run] = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._book.commit(effects)
        finally:
            del self._writing[run]
            writing.set_result(None)
        if outcome is CommitOutcome.COMMITTED:
            run.log.written(len(effects.events[run.run.id]))
        else:
            run.lose()

    async def until_written(self, run: ActiveRun) -> None:
        """Wait until what is on its way of a run's events is written.

        While the Store is away, it would be overtaken before it is tried again; and the Store takes
        a run's events in their order only.
        """
        if (writing := self._writing.get(run)) is not None:
            await asyncio.wait((writing,))
