"""The schedules of a cluster: made, looked at, changed, fired by hand.

Gateways and the manager each have one. All of it is in the Store; the scheduler finds what is due.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from agentray.core.owners import tenant_of
from agentray.core.schedule_specs import check_spec, first_time
from agentray.errors import InvalidSchedule, ScheduleConflict, StoreUnavailable, UnknownSchedule
from agentray.event_loop import time_of_day
from agentray.ids import new_id
from agentray.protocol.runs import Run
from agentray.protocol.schedules import (
    Schedule,
    ScheduleSpec,
    ScheduleStatus,
    check_schedule_id,
)
from agentray.protocol.webhooks import PREVIOUS_SECRET_H
from agentray.runtime.newest import up_to_date
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.schedule_runs import recurrence, recurrence_of, run_by_hand
from agentray.store.base import NewRun, Store, StoredRun

_SHOWN = 5
_ATTEMPTS = 20
"""Of a change that others are quicker with. The scheduler is one of them, once per firing."""


class ScheduleBook:
    """Looks after schedules."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        """Make one.

        Args:
            store: where they are.
            dispatcher: knows who can be prompted.
        """
        self._store = store
        self._dispatcher = dispatcher

    async def create(
        self, schedule_id: str | None, spec: ScheduleSpec, owner: str
    ) -> tuple[Schedule, bool]:
        """Make a schedule; one of the same id that says the same is returned instead.

        Args:
            schedule_id: its id; None: a new one.
            spec: what it does, and when.
            owner: who makes it.

        Returns:
            The schedule, and whether it is new.

        Raises:
            ConfigurationError: the id is malformed.
            InvalidSchedule: a field is wrong.
            ScheduleConflict: another schedule has the id.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take its runs.
        """
        spec, now = await self._checked(spec), time_of_day()
        await self._check_secret(spec, owner)
        uid = new_id("sched")
        schedule = Schedule(
            id=uid if schedule_id is None else check_schedule_id(schedule_id),
            status=ScheduleStatus.ACTIVE,
            spec=spec,
            next_at=first_time(recurrence(spec, now), now),
            created_at=now,
            updated_at=now,
            owner=owner,
            uid=uid,
        )
        if await self._store.write_schedule(schedule, revision=None):
            return _shown(schedule), True
        known = await self._store.get_schedule(schedule.id)
        if known is None or known.spec != spec or tenant_of(known.owner) != tenant_of(owner):
            raise ScheduleConflict(schedule.id)
        return _shown(known), False

    async def replace(self, schedule_id: str, spec: ScheduleSpec) -> Schedule:
        """Let a schedule say something else; it stays paused if it is.

        Raises:
            UnknownSchedule: there is none of this id.
            InvalidSchedule: a field is wrong.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take its runs.
        """
        spec = await self._checked(spec)
        await self._check_secret(spec, (await self._get(schedule_id)).owner)

        def change(known: Schedule, now: datetime) -> dict[str, Any]:
            next_at = first_time(recurrence(spec, known.created_at), now)
            paused = known.status is ScheduleStatus.PAUSED
            status = ScheduleStatus.PAUSED if paused else ScheduleStatus.ACTIVE
            told = {"spec": spec, "status": status, "last_error": None}
            return told | {"next_at": None if paused else next_at}

        return await self._change(schedule_id, change)

    async def get(self, schedule_id: str) -> Schedule:
        """Return a schedule.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        return _shown(await self._get(schedule_id))

    async def list(self, after: str, limit: int, *, tenant: str | None = None) -> list[Schedule]:
        """Return schedules with an id above `after`, in the order of their ids.

        Args:
            after: id of the last one already seen.
            limit: most of them.
            tenant: only those that this one owns; None: of all.
        """
        found = await self._store.list_schedules(after=after, limit=limit, tenant=tenant)
        return [_shown(schedule) for schedule in found]

    async def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule make no runs; one that is paused stays so.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        return await self._change(
            schedule_id, lambda _, __: {"status": ScheduleStatus.PAUSED, "next_at": None}
        )

    async def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule fire again, from now on: what it did not do meanwhile is over.

        Raises:
            UnknownSchedule: there is none of this id.
        """

        def change(known: Schedule, now: datetime) -> dict[str, Any]:
            if known.status is not ScheduleStatus.PAUSED:
                return {}
            next_at = recurrence_of(known).next_after(now)
            status = ScheduleStatus.ACTIVE if next_at else ScheduleStatus.ENDED
            return {"status": status, "next_at": next_at}

        return await self._change(schedule_id, change)

    async def delete(self, schedule_id: str) -> None:
        """Forget a schedule; runs that it has made stay, also those that have not begun.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        if not await self._store.delete_schedule(_storable(schedule_id)):
            raise UnknownSchedule(schedule_id)

    async def trigger(self, schedule_id: str) -> Run:
        """Make a run of a schedule now, beside its times, whether or not it is paused.

        Raises:
            UnknownSchedule: there is none of this id.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take the run.
        """
        made: list[NewRun] = []

        def change(known: Schedule, now: datetime) -> dict[str, Any]:
            made[:] = [run_by_hand(self._dispatcher, known, now)]
            return {"fired": known.fired + 1, "last_run": made[0].id, "last_at": now}

        await self._change(schedule_id, change, made)
        return StoredRun.fresh(made[0]).run

    async def _check_secret(self, spec: ScheduleSpec, owner: str) -> None:
        if spec.webhook is None:
            return
        name, since = spec.webhook.secret, time_of_day() - timedelta(hours=PREVIOUS_SECRET_H)
        if await self._store.webhook_secrets_of(tenant_of(owner), name, since) is None:
            problem = (
                f"There is no secret {name!r}: make it with `agentray webhooks secrets create`."
            )
            raise InvalidSchedule("webhook.secret", problem)

    async def _checked(self, spec: ScheduleSpec) -> ScheduleSpec:
        """Return what is asked for, with the agent that is meant where none is named."""
        check_spec(spec)
        if spec.prompt is not None and spec.agent is None:
            place = await up_to_date(
                self._dispatcher, lambda: self._dispatcher.place(None, None, fresh_key="any")
            )
            return spec.model_copy(update={"agent": place.agent.type})
        await up_to_date(self._dispatcher, lambda: self._dispatcher.place_scheduled(spec, "run_0"))
        return spec

    async def _get(self, schedule_id: str) -> Schedule:
        found = await self._store.get_schedule(_storable(schedule_id))
        if found is None:
            raise UnknownSchedule(schedule_id)
        return found

    async def _change(
        self,
        schedule_id: str,
        change: Callable[[Schedule, datetime], dict[str, Any]],
        runs: list[NewRun] | None = None,
    ) -> Schedule:
        for _ in range(_ATTEMPTS):
            known = await self._get(schedule_id)
            now = time_of_day()
            update = change(known, now)
            if not update:
                return _shown(known)
            update |= {"updated_at": now, "revision": known.revision + 1}
            changed = known.model_copy(update=update)
            if await self._store.write_schedule(changed, revision=known.revision, runs=runs or ()):
                return _shown(changed)
        raise StoreUnavailable(f"The schedule {schedule_id!r} is changed by others all the time.")


def _shown(schedule: Schedule) -> Schedule:
    """Return a schedule with its next times."""
    if schedule.next_at is None:
        return schedule
    times = (schedule.next_at, *recurrence_of(schedule).upcoming(schedule.next_at, _SHOWN - 1))
    return schedule.model_copy(update={"next_times": times})


def _storable(schedule_id: str) -> str:
    """Return an id that may be in the Store.

    Raises:
        UnknownSchedule: it cannot be.
    """
    try:
        schedule_id.encode()
    except UnicodeEncodeError:
        raise UnknownSchedule(schedule_id) from None
    if "\0" in schedule_id:
        raise UnknownSchedule(schedule_id)
    return schedule_id
