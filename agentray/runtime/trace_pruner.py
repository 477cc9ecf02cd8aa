"""Forgets old traces, a few at a time: the manager's broom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agentray.config import TRACE_RETENTION_DAYS, TRACE_RETENTION_RUNS
from agentray.store.base import Store

SWEEP_S = 60.0
"""Between two looks."""

BATCH = 1000
"""Traces that one statement forgets: it must not hold up the hosts' commits."""

_MAX_BATCHES = 20
"""Of one sweep; what is left falls to the next one, which then follows at once."""


@dataclass(frozen=True, slots=True)
class TraceRetention:
    """How long traces are kept, and how many.

    Attributes:
        days: from the run's start.
        runs: of which the newest have a trace.
    """

    days: float = TRACE_RETENTION_DAYS
    runs: int = TRACE_RETENTION_RUNS


class TracePruner:
    """Forgets the traces beyond the retention."""

    def __init__(self, store: Store, retention: TraceRetention) -> None:
        self._store = store
        self._retention = retention
        self._done_at: datetime | None = None

    async def sweep(self) -> None:
        """Forget what is too old or too much; does nothing until the next look is due."""
        now = datetime.now(UTC)
        if self._done_at is not None and now - self._done_at < timedelta(seconds=SWEEP_S):
            return
        keep = self._retention
        before = now - timedelta(days=keep.days)
        for _ in range(_MAX_BATCHES):
            if await self._store.prune_traces(before, keep=keep.runs, limit=BATCH) < BATCH:
                self._done_at = now
                return
