"""Ends of runs from outside of hosts, in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.store.base import StoredRun
from agentray.store.codec import EncodedEnd, encode_errors, encode_event
from agentray.store.run_ends import UnworkedEnd, check_ends

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


class MemoryRunEnds:
    """A `RunEndStore`."""

    _runs: dict[str, RunRow]

    @abstractmethod
    def _drop_steps(self, run_id: str) -> None: ...

    async def request_cancel(self, run_id: str, at: datetime) -> StoredRun | None:
        """Keep that somebody wants a run ended; an ended one is returned as it is."""
        row = self._runs.get(run_id)
        if row is not None and row.end is None and row.cancel_requested is None:
            row = self._runs[run_id] = replace(row, cancel_requested=at)
        return row.stored_run if row else None

    async def uncancelled_runs(self, before: datetime, *, limit: int = 1000) -> list[StoredRun]:
        """Return unfinished runs whose end somebody asked for before a time."""
        return self._unfinished(lambda row: row.cancel_requested, before)[:limit]

    async def overdue_runs(
        self, before: datetime, statuses: Collection[RunStatus], *, limit: int = 1000
    ) -> list[StoredRun]:
        """Return runs of these statuses with a deadline before a time, the first ones first."""
        overdue = self._unfinished(lambda row: row.new.deadline, before)
        return [stored for stored in overdue if stored.run.status in statuses][:limit]

    def _unfinished(
        self, time_of: Callable[[RunRow], datetime | None], before: datetime
    ) -> list[StoredRun]:
        """Return unfinished runs that have this time, and have it before another, in order."""
        found = [
            (time, row.stored_run)
            for row in self._runs.values()
            if row.end is None and (time := time_of(row)) is not None and time < before
        ]
        return [stored for _, stored in sorted(found, key=lambda entry: entry[0])]

    async def end_unworked(
        self, ends: Sequence[UnworkedEnd], statuses: Collection[RunStatus]
    ) -> list[Run]:
        """End runs that have one of these statuses when it is their turn; return those."""
        check_ends(ends, statuses)
        ended: list[Run] = []
        for end in ends:
            row = self._runs.get(end.run_id)
            if row is None or row.end is not None or row.status not in statuses:
                continue
            data: dict[str, Any] = {"error": end.error.model_dump(mode="json")}
            told = RunEvent(
                offset=len(row.events), kind=end.status.value, time=end.finished_at, data=data
            )
            errors = encode_errors([end.error])
            kept = EncodedEnd(end.status.value, None, errors, row.started_at, end.finished_at)
            row = replace(
                row, status=end.status, end=kept, events=(*row.events, encode_event(told))
            )
            self._runs[end.run_id] = row
            self._drop_steps(end.run_id)
            ended.append(row.run)
        return ended
