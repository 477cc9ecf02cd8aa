"""Forgets what is older than it is kept for, a few rows at a time: the manager's broom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentray.config import (
    JOB_RETENTION,
    RUN_RETENTION,
    TRACE_RETENTION_DAYS,
    TRACE_RETENTION_RUNS,
    JobRetention,
    RunRetention,
)
from agentray.core.lifecycle import TERMINAL
from agentray.event_loop import time_of_day
from agentray.protocol.runs import RunStatus
from agentray.store.base import Store
from agentray.store.codec import KEY_LIFETIME
from agentray.store.retention import PruneQuery

SWEEP_S = 60.0
"""Between two looks."""

BATCH = 1000
"""Rows that one statement forgets: it must not hold up the hosts' commits."""

_MAX_BATCHES = 20
"""Of one sweep; what is left falls to the next one, which then follows at once."""

_UNHAPPY = TERMINAL - {RunStatus.SUCCEEDED, RunStatus.CANCELLED}

Broom = Callable[[datetime], Awaitable[int]]
"""Forgets at most `BATCH` rows of a kind, given the time; returns how many it has forgotten."""


@dataclass(frozen=True, slots=True)
class TraceRetention:
    """How long traces are kept, and how many.

    Attributes:
        days: from the run's start.
        runs: of which the newest have a trace.
    """

    days: float = TRACE_RETENTION_DAYS
    runs: int = TRACE_RETENTION_RUNS


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept that are of no use to the work itself.

    Attributes:
        traces: of runs.
        runs: that have ended.
        jobs: likewise.
    """

    traces: TraceRetention = TraceRetention()
    runs: RunRetention = RUN_RETENTION
    jobs: JobRetention = JOB_RETENTION


class Pruner:
    """Sweeps with each broom in turn, when the next look is due."""

    def __init__(self, brooms: Sequence[Broom]) -> None:
        self._brooms = brooms
        self._done_at: datetime | None = None

    async def sweep(self) -> None:
        """Forget what is too old or too much; does nothing until the next look is due."""
        now = time_of_day()
        if self._done_at is not None and now - self._done_at < timedelta(seconds=SWEEP_S):
            return
        done = True
        for broom in self._brooms:
            done &= await _swept(broom, now)
        if done:
            self._done_at = now


async def _swept(broom: Broom, now: datetime) -> bool:
    """Sweep with a broom; return whether nothing was left."""
    for _ in range(_MAX_BATCHES):
        if await broom(now) < BATCH:
            return True
    return False


def brooms(store: Store, retention: Retention) -> list[Broom]:
    """Return what forgets all that is kept for a while."""
    return [
        trace_broom(store, retention.traces),
        job_broom(store, retention.jobs),
        *run_brooms(store, retention.runs),
    ]


def trace_broom(store: Store, retention: TraceRetention) -> Broom:
    """Return what forgets old traces."""

    async def sweep(now: datetime) -> int:
        before = now - timedelta(days=retention.days)
        return await store.prune_traces(before, keep=retention.runs, limit=BATCH)

    return sweep


def job_broom(store: Store, retention: JobRetention) -> Broom:
    """Return what forgets ended jobs and their logs."""

    async def sweep(now: datetime) -> int:
        before = now - timedelta(days=retention.days)
        return await store.prune_jobs(before, keep=retention.jobs, limit=BATCH)

    return sweep


def run_brooms(store: Store, retention: RunRetention) -> list[Broom]:
    """Return what forgets ended runs, one broom for each terminal status."""

    def broom(status: RunStatus) -> Broom:
        unhappy = status in _UNHAPPY
        days = retention.failed_days if unhappy else retention.days
        keep = retention.failed_runs if unhappy else retention.runs

        async def sweep(now: datetime) -> int:
            # What has an idempotency key is found by it for a day: nothing younger ever goes.
            query = PruneQuery(status, now - timedelta(days=days), keep, now - KEY_LIFETIME)
            return await store.prune_runs(query, limit=BATCH)

        return sweep

    return [broom(status) for status in sorted(TERMINAL)]


async def prune_by_hand(
    store: Store, older_than: timedelta, statuses: Sequence[RunStatus], *, dry_run: bool
) -> dict[RunStatus, int]:
    """Forget runs that ended longer ago; return how many, by status.

    Args:
        store: of the runs.
        older_than: at least a day.
        statuses: terminal ones.
        dry_run: only count them.
    """
    before = time_of_day() - older_than
    found: dict[RunStatus, int] = {}
    for status in statuses:
        query = PruneQuery(status, before, None, before)
        if dry_run:
            found[status] = await store.count_prunable(query)
            continue
        found[status] = pruned = await store.prune_runs(query, limit=BATCH)
        while pruned == BATCH:
            pruned = await store.prune_runs(query, limit=BATCH)
            found[status] += pruned
    return {status: count for status, count in found.items() if count}
