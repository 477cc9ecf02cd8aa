"""Schedules and runs that begin later, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentray.protocol.schedules import Schedule
from agentray.store import rows
from agentray.store.codec import check_run
from agentray.store.database import Database
from agentray.store.schedules import FIRST_DUE, DuePlace, webhooks_of

if TYPE_CHECKING:
    from agentray.store.base import NewRun, StoredRun


class PostgresSchedules:
    """A `ScheduleStore`; a part of `PostgresStore`."""

    _database: Database

    async def write_schedule(
        self, schedule: Schedule, *, revision: int | None, runs: Sequence[NewRun] = ()
    ) -> bool:
        """Keep a schedule and admit the runs that it makes, in one statement."""
        for run in runs:
            check_run(run)
        query = "insert_schedule" if revision is None else "update_schedule"
        about = (
            schedule.revision,
            schedule.next_at,
            schedule.model_dump_json(exclude={"next_times"}),
        )
        made = (*rows.new_run_columns(runs), schedule.owner)
        return await self._database.fetch_value(
            query, schedule.id, revision, *about, *made, *_hooks(schedule, runs)
        )

    async def get_schedule(self, schedule_id: str) -> Schedule | None:
        """Return a schedule, or None."""
        text = await self._database.fetch_value("get_schedule", schedule_id)
        return None if text is None else Schedule.model_validate_json(text)

    async def list_schedules(
        self, *, after: str = "", limit: int = 100, tenant: str | None = None
    ) -> list[Schedule]:
        """Return schedules with an id above `after`, in the order of their ids."""
        found = await self._database.fetch("list_schedules", after, limit, tenant)
        return [Schedule.model_validate_json(row["record"]) for row in found]

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule, not its runs; False: there is none of this id."""
        return await self._database.fetch_value("delete_schedule", schedule_id)

    async def due_schedules(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 100
    ) -> list[Schedule]:
        """Return the schedules whose next firing is due, after a place in their order."""
        found = await self._database.fetch("due_schedules", now, after.at, after.id, limit)
        return [Schedule.model_validate_json(row["record"]) for row in found]

    async def unfinished_of_schedule(self, schedule_id: str) -> int:
        """Return how many runs of a schedule have not ended."""
        return await self._database.fetch_value("unfinished_of_schedule", schedule_id)

    async def due_runs(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 500
    ) -> list[StoredRun]:
        """Return runs that are to begin now and that no host has begun."""
        found = await self._database.fetch("due_runs", now, after.at, after.id, limit)
        return [rows.stored_run_of(row) for row in found]

    async def next_due(self, now: datetime) -> datetime | None:
        """Return when the next run or schedule is due after a moment; None: none is."""
        return await self._database.fetch_value("next_due", now)


def _hooks(schedule: Schedule, runs: Sequence[NewRun]) -> tuple[Any, ...]:
    """Return what is kept of the webhooks of runs: their ids, and what they have in common."""
    hooks = webhooks_of(schedule, runs)
    if not hooks:
        return ([], None, None, None, None)
    one = hooks[0]
    events = None if one.events is None else list(one.events)
    return ([hook.id for hook in hooks], one.url, events, one.secret, one.created_at)
