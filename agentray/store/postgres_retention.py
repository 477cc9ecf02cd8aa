"""Forgetting ended runs, in PostgreSQL."""

from __future__ import annotations

from agentray.store.database import Database
from agentray.store.retention import PruneQuery


class PostgresRetention:
    """A `RetentionStore`; a part of `PostgresStore`."""

    _database: Database

    async def prune_runs(self, query: PruneQuery, *, limit: int) -> int:
        """Forget ended runs, with their events and traces; unfinished ones never."""
        return await self._database.fetch_value("prune_runs", *_arguments(query), limit)

    async def forget_run(self, run_id: str) -> bool:
        """Forget one ended run, with its events and traces; False: there is no such run."""
        return await self._database.fetch_value("forget_run", run_id) is not None

    async def count_prunable(self, query: PruneQuery) -> int:
        """Return how many runs `prune_runs` would forget."""
        return await self._database.fetch_value("count_prunable", *_arguments(query))


def _arguments(query: PruneQuery) -> tuple[object, ...]:
    return (query.status.value, query.before, query.keep, query.spare_from)
