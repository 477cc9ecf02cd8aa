"""Ending runs from outside of hosts: cancellations, and deadlines that no host looks after.

A cancellation is kept first, then the run's host is asked to end it. So it holds, too, when that
host dies a moment later: whoever takes the run up finds the wish. Where there is no host, the run
is ended in the Store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta

from agentray.core.lifecycle import TERMINAL, UNFINISHED
from agentray.errors import CallError, DeploymentStopped, UnknownAgentType, UnknownRun
from agentray.event_loop import time_of_day
from agentray.ids import AgentId
from agentray.protocol.event_runs import RunOptions
from agentray.protocol.runs import Run, RunStatus, why_stopped
from agentray.runtime.active_run import CANCEL_GRACE_S
from agentray.store.base import Store, StoredRun
from agentray.store.run_ends import UnworkedEnd

logger = logging.getLogger(__name__)

HOST_S = CANCEL_GRACE_S + 5.0
"""How long a run's host has to end it; after that it is ended without it."""

_QUEUE_SLACK_S = 0.5  # a host that works on a run is the first to look at its deadline
_PAUSE_S = 0.25

Ask = Callable[[AgentId, str], Awaitable[Run]]
"""Asks the host of an agent to end a run as cancelled; returns it when it has ended."""


class RunEnder:
    """Ends runs that somebody wants ended."""

    def __init__(self, store: Store, ask: Ask) -> None:
        """Make one.

        Args:
            store: of the runs.
            ask: asks their hosts.
        """
        self._store = store
        self._ask = ask

    async def cancel(self, run_id: str) -> Run:
        """End a run as cancelled and return it when it has ended; an ended one stays as it is.

        Raises:
            UnknownRun: there is none of this id.
            StoreUnavailable: nothing is known of it now.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + HOST_S
        stored = await self._store.request_cancel(run_id, time_of_day())
        while True:
            if stored is None:
                raise UnknownRun(run_id)
            if stored.run.status in TERMINAL:
                return stored.run
            alone = stored.run.status == RunStatus.WAITING or loop.time() >= give_up_at
            if not alone:
                ended = await self._by_host(stored, give_up_at - loop.time())
                alone = ended is None
                if ended is not None and ended.status in TERMINAL:
                    return ended
            if alone and await self._end([stored], RunStatus.CANCELLED, UNFINISHED):
                logger.info("run cancelled", extra={"action": "run_cancelled", "run": run_id})
            elif not alone:
                await asyncio.sleep(_PAUSE_S)
            stored = await self._store.get_run(run_id)

    async def _by_host(self, stored: StoredRun, wait_s: float) -> Run | None:
        """Have its host end a run; return it as it is then, None: there is no host."""
        try:
            async with asyncio.timeout(wait_s):
                return await self._ask(stored.agent, stored.run.id)
        except (DeploymentStopped, UnknownAgentType):
            return None
        except (CallError, TimeoutError):
            return stored.run  # its host is being replaced, or does not answer: look again

    async def sweep(self) -> None:
        """End what has passed its deadline, or was to be cancelled, and has no host that does."""
        now = time_of_day()
        hosted = now - timedelta(seconds=HOST_S)
        queued = now - timedelta(seconds=_QUEUE_SLACK_S)
        idle = (RunStatus.QUEUED, RunStatus.WAITING)
        await self._end(await self._store.overdue_runs(queued, idle), RunStatus.TIMED_OUT, idle)
        overdue = await self._store.overdue_runs(hosted, UNFINISHED)
        await self._end(overdue, RunStatus.TIMED_OUT, UNFINISHED)
        unheard = await self._store.uncancelled_runs(hosted)
        await self._end(unheard, RunStatus.CANCELLED, UNFINISHED)

    async def _end(
        self, runs: Sequence[StoredRun], status: RunStatus, statuses: Collection[RunStatus]
    ) -> Sequence[Run]:
        if not runs:
            return ()
        now = time_of_day()
        ends = [
            UnworkedEnd(
                stored.run.id,
                status,
                why_stopped(status, RunOptions.of_input(stored.input).timeout_s),
                now,
            )
            for stored in runs
        ]
        return await self._store.end_unworked(ends, statuses)
