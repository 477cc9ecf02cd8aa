"""Forgetting runs that have ended long ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from agentray.protocol.runs import RunStatus


@dataclass(frozen=True, slots=True)
class PruneQuery:
    """Which ended runs of one status are forgotten.

    Attributes:
        status: a terminal one.
        before: those that ended before; None: however long ago they did.
        keep: those beyond so many, the newest; None: however many there are.
        spare_from: those that ended then or later are kept in any case.
    """

    status: RunStatus
    before: datetime | None
    keep: int | None
    spare_from: datetime


class RetentionStore(Protocol):
    """Forgets ended runs."""

    async def prune_runs(self, query: PruneQuery, *, limit: int) -> int:
        """Forget ended runs, with their events and traces; unfinished ones never.

        Args:
            query: which ones: too old, or too many.
            limit: most of them that are forgotten now, those that ended first.

        Returns:
            How many were.
        """
        ...

    async def forget_run(self, run_id: str) -> bool:
        """Forget one ended run, with its events and traces; False: there is no such run."""
        ...

    async def count_prunable(self, query: PruneQuery) -> int:
        """Return how many runs `prune_runs` would forget."""
        ...
