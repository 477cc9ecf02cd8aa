"""What the Store keeps of schedules, and of runs that begin later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from agentray.protocol.schedules import Schedule
from agentray.store.webhooks import NewWebhook

if TYPE_CHECKING:
    from agentray.store.base import NewRun, StoredRun


@dataclass(frozen=True, slots=True)
class DuePlace:
    """How far one has got in what is due: it is ordered by time and id."""

    at: datetime
    id: str


FIRST_DUE = DuePlace(datetime(1, 1, 1, tzinfo=UTC), "")


def webhooks_of(schedule: Schedule, runs: Sequence[NewRun]) -> list[NewWebhook]:
    """Return the webhooks of runs that a schedule makes: the same whoever makes them."""
    spec = schedule.spec.webhook
    if spec is None:
        return []
    events = None if spec.events is None else tuple(event.value for event in spec.events)
    return [
        NewWebhook(
            f"wh_{run.id.removeprefix('run_')}",
            run.id,
            schedule.owner,
            spec.url,
            events,
            spec.secret,
            schedule.updated_at,
        )
        for run in runs
    ]


class ScheduleStore(Protocol):
    """Schedules, and runs that begin later."""

    async def write_schedule(
        self, schedule: Schedule, *, revision: int | None, runs: Sequence[NewRun] = ()
    ) -> bool:
        """Keep a schedule and admit the runs that it makes, in one transaction.

        Args:
            schedule: as it is to be; its own revision is the next one.
            revision: of the schedule that was read; None: there is none of this id yet.
            runs: that are admitted with it, and their webhooks; those whose ids are known stay as
                they are.

        Returns:
            False: somebody else has written it meanwhile, or made or deleted it. Nothing was kept.

        Raises:
            PayloadError: a run cannot be kept; nothing was.
        """
        ...

    async def get_schedule(self, schedule_id: str) -> Schedule | None:
        """Return a schedule, or None."""
        ...

    async def list_schedules(
        self, *, after: str = "", limit: int = 100, tenant: str | None = None
    ) -> list[Schedule]:
        """Return schedules with an id above `after`, in the order of their ids.

        Args:
            after: id of the last one already seen.
            limit: most of them.
            tenant: only those that this one owns; None: of all.
        """
        ...

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule, not its runs; False: there is none of this id."""
        ...

    async def due_schedules(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 100
    ) -> list[Schedule]:
        """Return the schedules whose next firing is due, after a place in their order."""
        ...

    async def unfinished_of_schedule(self, schedule_id: str) -> int:
        """Return how many runs of a schedule have not ended."""
        ...

    async def due_runs(
        self, now: datetime, *, after: DuePlace = FIRST_DUE, limit: int = 500
    ) -> list[StoredRun]:
        """Return runs that are to begin now and that no host has begun, after a place in the order.

        One that is `in_turn` is not due before the earlier runs of its schedule have ended.
        """
        ...

    async def next_due(self, now: datetime) -> datetime | None:
        """Return when the next run or schedule is due after a moment; None: none is."""
        ...
