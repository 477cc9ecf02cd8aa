"""Admission: from here on a run is kept, whatever happens to the request that brought it.

Prompts that arrive together are committed together. The moment a run is committed it is handed to
its host by a task that belongs to the gateway: a client that hangs up stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from agentray.errors import AgentrayError, ChannelClosed, Overloaded
from agentray.protocol.runs import Run
from agentray.runtime.group_commit import PATIENCE_S, GroupCommit
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import Admission, NewRun, Store

logger = logging.getLogger(__name__)

_TOGETHER = 16
"""Runs that are committed together at most: while some are, their hosts work on those before."""

_UNDER_WAY = "runs under way"


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
        self,
        store: Store,
        dispatcher: RunDispatcher,
        *,
        max_under_way: int,
        max_per_owner: int | None = None,
    ) -> None:
        """Make it.

        Args:
            store: where runs are kept.
            dispatcher: hands them to their hosts.
            max_under_way: runs that one replica drives at a time. More would only fill its memory:
                they wait outside.
            max_per_owner: the same for those of one API key; None: no limit of its own.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._max_under_way = max_under_way
        self._max_per_owner = max_per_owner
        self._under_way: Counter[str] = Counter()  # by owner; also what is being admitted
        self._driving: dict[str, asyncio.Task[Run | None]] = {}
        self._commits = GroupCommit(
            self._admit_all, name="admission", max_batch=_TOGETHER, patience_s=PATIENCE_S
        )

    async def admit(self, run: NewRun) -> Admitted:
        """Commit a run and start driving it; a repeat finds the earlier run instead.

        Raises:
            Overloaded: this replica has too much under way.
            StoreUnavailable: it was not committed.
            ChannelClosed: `close` was called.
        """
        if self._under_way.total() >= self._max_under_way:
            raise Overloaded("The gateway", what=_UNDER_WAY)
        if self._max_per_owner is not None and self._under_way[run.owner] >= self._max_per_owner:
            raise Overloaded(f"The API key {run.owner}", what=_UNDER_WAY)
        self._under_way[run.owner] += 1
        try:
            return await self._commits.submit(run)
        except (Overloaded, ChannelClosed):  # before it was taken
            self._ended(run)
            raise

    async def close(self) -> None:
        """Commit what was taken, then let go of the runs: their hosts go on without us."""
        await self._commits.close()
        tasks = list(self._driving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _admit_all(self, runs: Sequence[NewRun]) -> Sequence[Admitted]:
        try:
            admissions = await self._store.admit(runs)
        except BaseException:
            for run in runs:
                self._ended(run)
            raise
        for run, admission in zip(runs, admissions, strict=True):
            if not admission.created or run.not_before is not None:
                self._ended(run)  # it is driven already, or the manager begins it later
            else:
                driving = self._drive(_placed(run, admission), held=admission.held)
                task = asyncio.create_task(driving, name=f"drive {run.id}")
                self._driving[run.id] = task
                task.add_done_callback(partial(self._forget, run))
        return [Admitted(each, self._driving.get(each.run.id)) for each in admissions]

    async def _drive(self, run: NewRun, *, held: bool) -> Run | None:
        # It was accepted and is kept: whatever goes wrong here, the manager gives it to a host.
        try:
            return await self._dispatcher.run(run, held=held)
        except AgentrayError as error:
            logger.warning(
                "run stays queued: %s", error, extra={"action": "run_waits", "run": run.id}
            )
        except Exception:  # a bug, told in the log; the accepted run must not be lost to it
            extra = {"action": "run_drive_failed", "run": run.id}
            logger.exception("run stays queued: driving it failed", extra=extra)
        return None

    def _forget(self, run: NewRun, _task: asyncio.Task[Run | None]) -> None:
        del self._driving[run.id]
        self._ended(run)

    def _ended(self, run: NewRun) -> None:
        """Make room for another one."""
        self._under_way[run.owner] -= 1
        if not self._under_way[run.owner]:
            del self._under_way[run.owner]


def _placed(run: NewRun, admission: Admission) -> NewRun:
    """Return a run with the agent that it has: one that goes on with another may be a branch."""
    former = run.goes_on
    if former is None or former.branch is None or admission.run.agent != str(former.branch):
        return run
    return replace(run, agent=former.branch, slot=former.branch_slot)
