"""Schedules for programs that do not await."""

from __future__ import annotations

import asyncio
from typing import Unpack

from agentray.blocking import wait_for
from agentray.protocol.runs import Run
from agentray.protocol.schedules import Schedule
from agentray.runtime.schedule_client import ScheduleClient, ScheduleOptions


class SyncSchedules:
    """A `ScheduleClient` whose methods block; see there for what each one does and raises."""

    def __init__(self, schedules: ScheduleClient, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `SyncManager`.

        Args:
            schedules: what does the work.
            loop: its event loop, which runs in another thread.
        """
        self._schedules = schedules
        self._loop = loop

    def create(
        self, schedule_id: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Make a schedule: prompt an agent, or dispatch an event, again and again."""
        return wait_for(self._schedules.create(schedule_id, **options), self._loop)

    def replace(self, schedule_id: str, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Let a schedule say something else from now on; it stays paused if it is."""
        return wait_for(self._schedules.replace(schedule_id, **options), self._loop)

    def get(self, schedule_id: str) -> Schedule:
        """Return a schedule as it is now, with its next times."""
        return wait_for(self._schedules.get(schedule_id), self._loop)

    def list(self, *, after: str = "", limit: int = 100) -> list[Schedule]:
        """Return schedules in the order of their ids."""
        return wait_for(self._schedules.list(after=after, limit=limit), self._loop)

    def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule make no runs until it is resumed."""
        return wait_for(self._schedules.pause(schedule_id), self._loop)

    def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule fire again, from now on: what it did not do meanwhile is over."""
        return wait_for(self._schedules.resume(schedule_id), self._loop)

    def delete(self, schedule_id: str) -> None:
        """Forget a schedule; runs that it has made stay, also those that have not begun."""
        wait_for(self._schedules.delete(schedule_id), self._loop)

    def trigger(self, schedule_id: str) -> Run:
        """Make a run of a schedule now, beside its times; returns it as `queued`."""
        return wait_for(self._schedules.trigger(schedule_id), self._loop)
