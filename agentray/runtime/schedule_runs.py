"""From a schedule to its times, and from one of these to a run."""

from __future__ import annotations

from datetime import datetime, timedelta

from agentray.core.recurrence import Recurrence, firing_id, jitter
from agentray.ids import new_id
from agentray.protocol.event_runs import RunOptions
from agentray.protocol.schedules import Overlap, Schedule, ScheduleSpec
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import NewRun, run_input


def recurrence_of(schedule: Schedule) -> Recurrence:
    """Return the times of a schedule."""
    return recurrence(schedule.spec, schedule.created_at)


def recurrence(spec: ScheduleSpec, made_at: datetime) -> Recurrence:
    """Return the times that are asked for.

    Args:
        spec: what is asked for.
        made_at: from when intervals are counted that have no start.
    """
    every = None if spec.every_s is None else timedelta(seconds=spec.every_s)
    return Recurrence(
        spec.tz, spec.starts_at or made_at, spec.cron, every, spec.starts_at, spec.ends_at
    )


def run_of_firing(
    dispatcher: RunDispatcher, schedule: Schedule, at: datetime, now: datetime
) -> NewRun:
    """Return the run of one firing: the same whoever makes it.

    Args:
        dispatcher: knows where it goes.
        schedule: that fires.
        at: the firing's time.
        now: the time.

    Raises:
        UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
    """
    begin = at + jitter(schedule.uid, at, schedule.spec.jitter_s)
    return _run(dispatcher, schedule, firing_id(schedule.uid, at), begin, now)


def run_by_hand(dispatcher: RunDispatcher, schedule: Schedule, now: datetime) -> NewRun:
    """Return a run of a schedule beside its times.

    Raises:
        UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
    """
    return _run(dispatcher, schedule, new_id("run"), now, now)


def _run(
    dispatcher: RunDispatcher, schedule: Schedule, run_id: str, begin: datetime, now: datetime
) -> NewRun:
    spec = schedule.spec
    place = dispatcher.place_scheduled(spec, run_id)
    correlation_id = run_id
    if spec.event is None:
        given = run_input(spec.prompt or "", None, timeout_s=spec.run_timeout_s)
    else:
        correlation_id = spec.event.get("correlation_id") or run_id
        fresh = {"event_id": new_id("evt"), "time": begin.isoformat()}
        options = RunOptions(spec.on_error.value, spec.run_timeout_s, events=True)
        given = options.as_input({**spec.event, **fresh})
    return NewRun(
        run_id,
        place.agent,
        place.pool,
        place.slot,
        given,
        correlation_id,
        now,
        owner=schedule.owner,
        not_before=begin,
        schedule=schedule.id,
        in_turn=spec.overlap is Overlap.ENQUEUE,
    )
