"""Schedules for programs that do not await."""

from __future__ import annotations

from agentray.runtime.schedule_client import ScheduleClient
from agentray.runtime.sync_part import SyncPart, blocking


class SyncSchedules(SyncPart[ScheduleClient]):
    """A `ScheduleClient` whose methods block; see there for what each one does and raises."""

    create = blocking(ScheduleClient.create)
    replace = blocking(ScheduleClient.replace)
    get = blocking(ScheduleClient.get)
    list = blocking(ScheduleClient.list)
    pause = blocking(ScheduleClient.pause)
    resume = blocking(ScheduleClient.resume)
    delete = blocking(ScheduleClient.delete)
    trigger = blocking(ScheduleClient.trigger)
