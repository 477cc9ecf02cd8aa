"""The runs that are under way on this host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from agentray.core.lifecycle import TERMINAL
from agentray.errors import Fenced, StoreUnavailable, UnknownRun
from agentray.events import Prompt
from agentray.ids import AgentId
from agentray.protocol.envelope import Envelope, Kind
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus
from agentray.runtime.active_run import SPAN_FIELDS, ActiveRun
from agentray.runtime.group_commit import GroupCommit
from agentray.runtime.tasks import TaskSet
from agentray.runtime.turn import Turn
from agentray.store.base import CommitOutcome, Effects, Store, StoredRun

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""How often events of runs under way are written. A run that is shorter costs one commit in all."""

MAX_ATTEMPTS = 8
"""Attempts of a run whose hosts keep dying; then it is `dead` and kills no more of them.

A host's death can cost a run two: one for the death, one when the replacement takes slots over."""

_STORE_RETRY_S = 0.5


class RunBook:
    """Starts, joins, watches and ends runs on a host."""

    def __init__(
        self,
        host_id: str,
        store: Store,
        commits: GroupCommit[Effects, CommitOutcome],
        *,
        epoch: Callable[[str, int], int],
        pool_of: Callable[[AgentId], str | None],
        deliver: Callable[[Turn], None],
        lives_on: Callable[[AgentId], str | None],
    ) -> None:
        """Make an empty book.

        Args:
            host_id: of this host.
            store: where runs are kept.
            commits: the host's commits, which are gathered.
            epoch: returns the epoch of a slot; raises `Fenced` when the host does not lease it.
            pool_of: returns the pool in which an agent lives now.
            deliver: hands a message to its agent on this host.
            lives_on: returns the host that leases an agent now.
        """
        self.host_id = host_id
        self._store = store
        self._commits = commits
        self.epoch = epoch
        self.pool_of = pool_of
        self._deliver = deliver
        self._lives_on = lives_on
        self._tasks = TaskSet("runs")
        self._active: dict[str, ActiveRun] = {}
        self._taking: dict[str, asyncio.Task[ActiveRun | Run]] = {}
        self._flusher: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._active)

    def get(self, run_id: str) -> ActiveRun | None:
        """Return a run that is under way here."""
        return self._active.get(run_id)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something that belongs to a run under way."""
        self._tasks.spawn(self._guarded(coroutine))

    async def _guarded(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Fenced:
            return  # the run was let go; whoever leases the agent goes on with it

    # Beginning

    def begin(self, stored: StoredRun) -> ActiveRun:
        """Start an attempt; a run that is under way here is returned as it is."""
        known = self._active.get(stored.run.id)
        if known is not None:
            return known
        active = ActiveRun(stored, self)
        self._active[stored.run.id] = active
        self._deliver(Turn(_prompt(stored), active, run=active))
        if self._flusher is None or self._flusher.done():
            self._flusher = self._tasks.spawn(self._flush_while_active(), name="flush run events")
        return active

    async def take_up(self, run_id: str) -> ActiveRun | Run:
        """Begin another attempt at a run of the Store; one that has ended is returned as it is.

        Raises:
            UnknownRun: the Store does not know it.
        """
        if (known := self._active.get(run_id)) is not None:
            return known
        taking = self._taking.get(run_id)
        if taking is None:
            # Manager and gateway may ask at once: that is one attempt, not two.
            taking = self._tasks.spawn(self._take_up(run_id), name=f"take up {run_id}")
            self._taking[run_id] = taking
            taking.add_done_callback(lambda _: self._taking.pop(run_id, None))
        return await asyncio.shield(taking)

    async def _take_up(self, run_id: str) -> ActiveRun | Run:
        stored = await self._store.retry_run(run_id)
        if stored is None:
            raise UnknownRun(run_id)
        if stored.run.status in TERMINAL:
            return stored.run
        if stored.run.attempt > MAX_ATTEMPTS:
            return await self._give_up(stored)
        return self.begin(stored)

    async def _give_up(self, stored: StoredRun) -> ActiveRun:
        """End a run without another attempt: that one might cost this host too."""
        active = self._active[stored.run.id] = ActiveRun(stored, self)
        message = f"Given up after {MAX_ATTEMPTS} attempts, each of which lost a host."
        await active.finish(RunStatus.DEAD, None, RunError(type="HostDied", message=message))
        return active

    async def again(self, active: ActiveRun, reason: str) -> None:
        """Try a run again after a host that worked on a part of it was lost."""
        logger.warning(
            "run is tried again: %s",
            reason,
            extra={"action": "run_retried", "run": active.run.id},
        )
        self._active.pop(active.run.id, None)
        retried = await self.take_up(active.run.id)
        if isinstance(retried, ActiveRun):
            retried.on_end(active.hand_over)
        else:
            active.hand_over(retried)

    def agents_moved(self, spans: Sequence[tuple[Any, ...]]) -> bool:
        """Whether an agent that handled a message of a run lives on another host now."""
        agent, host = (SPAN_FIELDS.index(name) for name in ("agent", "host"))
        return any(self._lives_on(AgentId.parse(span[agent])) != span[host] for span in spans)

    # While it runs

    async def events(self, run_id: str, after: int, wait_s: float) -> list[RunEvent]:
        """Return stored events above `after`, waiting for the first while the run is under way."""
        active = self._active.get(run_id)
        if active is not None:
            await active.events_after(after, wait_s)
        return await self._store.run_events(run_id, after=after)

    async def _flush_while_active(self) -> None:
        while self._active:
            await asyncio.sleep(FLUSH_S)
            try:
                await self._flush()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "run_flush_waits"})
                await asyncio.sleep(_STORE_RETRY_S)

    async def _flush(self) -> None:
        # A run shorter than the interval is written once, at its end.
        due = datetime.now(UTC) - timedelta(seconds=FLUSH_S)
        runs = [run for run in self._active.values() if run.started_at <= due]
        started = {run.run.id: run.started_at for run in runs if not run.marked}
        if started:
            await self._store.mark_running(started, self.host_id)
            for run in runs:
                run.marked = True
        await asyncio.gather(*(self._write_events(run) for run in runs))

    async def _write_events(self, run: ActiveRun) -> None:
        try:
            effects = run.take_pending()
        except Fenced:
            run.lose()
            return
        if effects is not None:
            outcome = await self._commit(effects)
            if outcome is CommitOutcome.COMMITTED:
                run.written(len(effects.events[run.run.id]))
            else:
                run.lose()

    # Ending

    async def commit_end(self, active: ActiveRun, effects: Effects, run: Run) -> Run | None:
        """Commit a run's end; return the run as it ended, None when it was lost to another host.

        While the Store is away it is tried again: work that is done is not thrown away.

        Raises:
            Fenced: the agent's state must not be used any more either.
        """
        outcome = await self._commit(effects)
        self.forget(active)
        match outcome:
            case CommitOutcome.COMMITTED:
                return run
            case CommitOutcome.ALREADY_ENDED:
                stored = await self._store.get_run(run.id)
                return stored.run if stored else None
            case CommitOutcome.FENCED:
                active.lose()
                raise Fenced

    async def _commit(self, effects: Effects) -> CommitOutcome:
        while True:
            try:
                return await self._commits.submit(effects)
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "commit_waits"})
                await asyncio.sleep(_STORE_RETRY_S)

    def forget(self, active: ActiveRun) -> None:
        """Take a run off the book."""
        if self._active.get(active.run.id) is active:
            del self._active[active.run.id]

    async def close(self) -> None:
        """Let go of all runs; they stay unfinished in the Store, for another host."""
        for active in list(self._active.values()):
            active.lose()
        await self._tasks.close()


def _prompt(stored: StoredRun) -> Envelope:
    run = stored.run
    # Each attempt is a conversation of its own: it must not meet what an earlier one left behind.
    correlation_id = run.correlation_id if run.attempt == 1 else f"{run.id}#{run.attempt}"
    event = Prompt(
        text=stored.input.get("prompt", ""),
        correlation_id=correlation_id,
        source=f"run/{run.id}",
        time=datetime.now(UTC),
    )
    agent = AgentId(*stored.agent)
    return Envelope(
        id=1,
        kind=Kind.EVENT,
        type=agent.type,
        key=agent.key,
        name=Prompt.event_type,
        payload=event,
        correlation_id=correlation_id,
        root=agent,
    )
