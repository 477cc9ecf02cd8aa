"""Ends of runs from outside of hosts, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from agentray.protocol.runs import Run, RunStatus
from agentray.store import rows
from agentray.store.base import StoredRun
from agentray.store.codec import encode_errors
from agentray.store.database import Database
from agentray.store.run_ends import UnworkedEnd, check_ends


class PostgresRunEnds:
    """A `RunEndStore`."""

    _database: Database

    async def request_cancel(self, run_id: str, at: datetime) -> StoredRun | None:
        """Keep that somebody wants a run ended; an ended one is returned as it is."""
        row = await self._database.fetch_row("request_cancel", run_id, at)
        if row is None:
            row = await self._database.fetch_row("get_run", run_id)
        return rows.stored_run_of(row) if row else None

    async def uncancelled_runs(self, before: datetime, *, limit: int = 1000) -> list[StoredRun]:
        """Return unfinished runs whose end somebody asked for before a time."""
        found = await self._database.fetch("uncancelled_runs", before, limit)
        return [rows.stored_run_of(row) for row in found]

    async def overdue_runs(
        self, before: datetime, statuses: Collection[RunStatus], *, limit: int = 1000
    ) -> list[StoredRun]:
        """Return runs of these statuses with a deadline before a time, the first ones first."""
        wanted = [status.value for status in statuses]
        found = await self._database.fetch("overdue_runs", before, wanted, limit)
        return [rows.stored_run_of(row) for row in found]

    async def end_unworked(
        self, ends: Sequence[UnworkedEnd], statuses: Collection[RunStatus]
    ) -> list[Run]:
        """End runs that have one of these statuses when it is their turn; return those."""
        check_ends(ends, statuses)
        columns = rows.columns(
            ((e.run_id, e.status.value, encode_errors([e.error]), e.finished_at) for e in ends), 4
        )
        wanted = [status.value for status in statuses]
        found = await self._database.fetch("end_unworked", *columns, wanted)
        if found:
            # A step that is committed in between finds that its run has ended.
            await self._database.execute("drop_steps", [row["id"] for row in found])
        return [rows.run_of(row) for row in found]
