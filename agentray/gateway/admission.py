"""Admission: from here on a run is kept, whatever happens to the request that brought it.

Prompts that arrive together are committed together. The moment a run is committed it is handed to
its host by a task that belongs to the gateway: a client that hangs up stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from agentray.errors import AgentrayError, Overloaded
from agentray.protocol.runs import Run
from agentray.runtime.group_commit import GroupCommit
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import Admission, NewRun, Store

logger = logging.getLogger(__name__)

_MAX_UNDER_WAY = 20_000
"""Runs that one replica drives at a time. More would only fill its memory: they wait outside."""

_LINGER_S = 0.004
"""How long an admission waits for company after one that had some: a commit, a message to a host
and the host's own commit then serve several prompts."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admission, and the task that drives the run where this replica does."""

    admission: Admission
    driving: asyncio.Task[Run | None] | None

    async def ended(self, wait_s: float) -> Run | None:
        """Return the run when it has ended.

        Args:
            wait_s: how long to wait for the end.

        Returns:
            None: it had not ended by then, or is not driven here.
        """
        if self.driving is None:
            return None
        # wait() leaves the task alone, both when the time is up and when the caller is cancelled.
        await asyncio.wait((self.driving,), timeout=wait_s)
        ended = self.driving.done() and not self.driving.cancelled()
        return self.driving.result() if ended else None


class Admissions:
    """Admits runs and drives them to their end."""

    def __init__(
        self, store: Store, dispatcher: RunDispatcher, *, max_under_way: int = _MAX_UNDER_WAY
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._max_under_way = max_under_way
        self._driving: dict[str, asyncio.Task[Run | None]] = {}
        self._commits = GroupCommit(self._admit_all, name="admission", linger_s=_LINGER_S)

    async def admit(self, run: NewRun) -> Admitted:
        """Commit a run and start driving it; a repeat finds the earlier run instead.

        Raises:
            Overloaded: this replica has too much under way.
            StoreUnavailable: it was not committed.
            ChannelClosed: `close` was called.
        """
        if len(self._driving) >= self._max_under_way:
            raise Overloaded("The gateway")
        return await self._commits.submit(run)

    async def close(self) -> None:
        """Commit what was taken, then let go of the runs: their hosts go on without us."""
        await self._commits.close()
        tasks = list(self._driving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _admit_all(self, runs: Sequence[NewRun]) -> Sequence[Admitted]:
        admissions = await self._store.admit(runs)
        for run, admission in zip(runs, admissions, strict=True):
            if admission.created and run.not_before is None:  # else the manager begins it
                task = asyncio.create_task(self._drive(run), name=f"drive {run.id}")
                self._driving[run.id] = task
                task.add_done_callback(partial(self._forget, run.id))
        return [Admitted(each, self._driving.get(each.run.id)) for each in admissions]

    async def _drive(self, run: NewRun) -> Run | None:
        # It was accepted and is kept: whatever goes wrong here, the manager gives it to a host.
        try:
            return await self._dispatcher.run(run)
        except AgentrayError as error:
            logger.warning(
                "run stays queued: %s", error, extra={"action": "run_waits", "run": run.id}
            )
        except Exception:  # a bug, told in the log; the accepted run must not be lost to it
            extra = {"action": "run_drive_failed", "run": run.id}
            logger.exception("run stays queued: driving it failed", extra=extra)
        return None

    def _forget(self, run_id: str, _task: asyncio.Task[Run | None]) -> None:
        del self._driving[run_id]
