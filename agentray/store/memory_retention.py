"""Forgetting ended runs, in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentray.store.retention import PruneQuery

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


class MemoryRetention:
    """A `RetentionStore`; a part of `MemoryStore`."""

    _runs: dict[str, RunRow]
    _keys: dict[tuple[str, str], str]
    _traces: dict[str, Any]

    @abstractmethod
    def _forget_history(self, run_ids: Sequence[str]) -> None: ...

    @abstractmethod
    def _forget_noted(self, run_id: str) -> None: ...

    async def prune_runs(self, query: PruneQuery, *, limit: int) -> int:
        """Forget ended runs, with their events and traces; unfinished ones never."""
        pruned = self._prunable(query)[:limit]
        for run_id in pruned:
            self._forget_one(run_id)
        self._forget_history(pruned)
        return len(pruned)

    async def forget_run(self, run_id: str) -> bool:
        """Forget one ended run, with its events and traces; False: there is no such run."""
        row = self._runs.get(run_id)
        if row is None or row.end is None:
            return False
        self._forget_one(run_id)
        self._forget_history([run_id])
        return True

    def _forget_one(self, run_id: str) -> None:
        new = self._runs.pop(run_id).new
        self._traces.pop(run_id, None)
        self._forget_noted(run_id)
        if new.idempotency_key is not None:
            key = (new.owner, new.idempotency_key)
            if self._keys.get(key) == run_id:
                del self._keys[key]

    async def count_prunable(self, query: PruneQuery) -> int:
        """Return how many runs `prune_runs` would forget."""
        return len(self._prunable(query))

    def _prunable(self, query: PruneQuery) -> list[str]:
        """Return the ids of runs to be forgotten, in the order of their ends."""
        ended = sorted(
            (row.end.finished_at, run_id)
            for run_id, row in self._runs.items()
            if row.end is not None and row.status is query.status
        )
        beyond = 0 if query.keep is None else len(ended) - query.keep
        return [
            run_id
            for place, (at, run_id) in enumerate(ended)
            if at < query.spare_from
            and (place < beyond or (query.before is not None and at < query.before))
        ]
