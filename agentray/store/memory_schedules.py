"""Schedules and runs that begin later, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from agentray.core.owners import tenant_of
from agentray.protocol.schedules import Schedule
from agentray.store.schedules import FIRST_DUE, DuePlace, webhooks_of

if TYPE_CHECKING:
    from agentray.store.base import Admission, NewRun, StoredRun
    from agentray.store.memory import RunRow
    from agentray.store.webhooks import NewWebhook


class MemorySchedules:
    """A `ScheduleStore`; a part of `MemoryStore`."""

    _runs: dict[str, RunRow]

    def __init__(self) -> None:
        super().__init__()
        self._schedules: dict[str, str] = {}  # id → JSON

    if TYPE_CHECKING:  # `MemoryStore` has it

        async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
            """See `Store.admit`."""
            ...

        async def put_webhook(self, webhook: NewWebhook) -> None:
            """See `WebhookStore`."""
            ...

    async def write_schedule(
        self, schedule: Schedule, *, revision: int | None, runs: Sequence[NewRun] = ()
    ) -> bool:
        """Keep a schedule and admit the runs that it makes, at once."""
        known = await self.get_schedule(schedule.id)
        if (None if known is None else known.revision) != revision:
            return False
        await self.admit(runs)
        for hook in webhooks_of(schedule, runs):
            await self.put_webhook(hook)
        self._schedules[schedule.id] = schedule.model_dump_json(exclude={"next_times"})
        return True

    async def get_schedule(self, schedule_id: str) -> Schedule | None:
        """Return a schedule, or None."""
        text = self._schedules.get(schedule_id)
        return None if text is None else Schedule.model_validate_json(text)

    async def list_schedules(
        self, *, after: str = "", limit: int = 100, tenant: str | None = None
    ) -> list[Schedule]:
        """Return schedules with an id above `after`, in the order of their ids."""
        found = [
            schedule
            for schedule in self._all()
            if schedule.id > after and tenant in {None, tenant_of(schedule.owner)}
        ]
        return found[:limit]

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule, not its runs; False: there is none of this id."""
        return self._schedules.pop(schedule_id, None) is not None

    async def due_schedules(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 100
    ) -> list[Schedule]:
        """Return the schedules whose next firing is due, after a place in their order."""
        due = sorted((s.next_at, s.id) for s in self._all() if s.next_at and s.next_at <= now)
        found = {schedule.id: schedule for schedule in self._all()}
        return [found[id_] for at, id_ in due if (at, id_) > (after.at, after.id)][:limit]

    async def unfinished_of_schedule(self, schedule_id: str) -> int:
        """Return how many runs of a schedule have not ended."""
        return sum(
            row.new.schedule == schedule_id and row.end is None for row in self._runs.values()
        )

    async def due_runs(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 500
    ) -> list[StoredRun]:
        """Return runs that are to begin now and that no host has begun."""
        due = sorted(
            (row.new.not_before, row.new.id)
            for row in self._runs.values()
            if row.delayed and row.end is None and row.new.not_before and row.new.not_before <= now
        )
        found = [
            self._runs[run_id]
            for at, run_id in due
            if (at, run_id) > (after.at, after.id) and not self._waits_in_turn(run_id)
        ]
        return [row.stored_run for row in found[:limit]]

    def _waits_in_turn(self, run_id: str) -> bool:
        """Whether an earlier run of the same schedule has not ended."""
        new = self._runs[run_id].new
        return new.in_turn and any(
            row.end is None
            and row.new.schedule == new.schedule
            and row.new.not_before is not None
            and new.not_before is not None
            and (row.new.not_before, row.new.id) < (new.not_before, run_id)
            for row in self._runs.values()
        )

    async def next_due(self, now: datetime) -> datetime | None:
        """Return when the next run or schedule is due after a moment; None: none is."""
        times = [s.next_at for s in self._all() if s.next_at and s.next_at > now]
        times += [
            row.new.not_before
            for row in self._runs.values()
            if row.delayed and row.end is None and row.new.not_before and row.new.not_before > now
        ]
        return min(times, default=None)

    def _all(self) -> list[Schedule]:
        return [Schedule.model_validate_json(self._schedules[i]) for i in sorted(self._schedules)]
