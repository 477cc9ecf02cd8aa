"""Schedules in the asynchronous client: `client.schedules`."""

from __future__ import annotations

from typing import Unpack

from agentray.client.calls import schedules as calls
from agentray.client.calls.http import check
from agentray.client.calls.runs import parse_run
from agentray.client.calls.schedules import ScheduleOptions, SchedulePage
from agentray.client.resource import AsyncResource
from agentray.ids import new_id
from agentray.protocol.runs import Run
from agentray.protocol.schedules import Schedule


class AsyncSchedules(AsyncResource):
    """Makes schedules and looks after them. Every method raises `ClientError`.

    ```python
    await client.schedules.create("nightly", prompt="Sum up.", cron="0 3 * * *")
    ```
    """

    async def create(
        self,
        schedule_id: str | None = None,
        *,
        prompt: str,
        agent: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule; one of the same id that says the same is found.

        Args:
            schedule_id: its id, such as `nightly`; None: a new one.
            prompt: what the agent is asked.
            agent: an agent type (a fresh instance each time) or type/key; None: the app's entry.
            options: `cron` with `timezone`, or `every_s`; and what else a schedule has.

        Raises:
            Conflict: another schedule has the id.
            InvalidRequest: a field is wrong.
        """
        request = calls.create(schedule_id or new_id("sched"), prompt, agent, options)
        return calls.parse_schedule(await self._connection.send(request))

    async def replace(
        self,
        schedule_id: str,
        *,
        prompt: str,
        agent: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Let a schedule say something else from now on; see `create`.

        Raises:
            NotFound: there is none of this id.
        """
        request = calls.replace(schedule_id, prompt, agent, options)
        return calls.parse_schedule(await self._connection.send(request))

    async def get(self, schedule_id: str) -> Schedule:
        """Return a schedule as it is now, with its next times.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_schedule(await self._connection.send(calls.get(schedule_id)))

    async def list(self, *, limit: int = 50, after: str = "") -> SchedulePage:
        """Return schedules in the order of their ids.

        Args:
            limit: most of them, 1 to 200.
            after: id of the last one already seen: the `next` of the page before.
        """
        request = calls.list_schedules(limit, after)
        return calls.parse_schedules(await self._connection.send(request))

    async def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule make no runs until it is resumed.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_schedule(await self._connection.send(calls.act(schedule_id, "pause")))

    async def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule fire again, from now on.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_schedule(await self._connection.send(calls.act(schedule_id, "resume")))

    async def delete(self, schedule_id: str) -> None:
        """Forget a schedule; runs that it has made stay.

        Raises:
            NotFound: there is none of this id, or an earlier try has forgotten it.
        """
        check(await self._connection.send(calls.delete(schedule_id)))

    async def trigger(self, schedule_id: str) -> Run:
        """Make a run of a schedule now, beside its times. Sent once: a repeat would be another run.

        Raises:
            NotFound: there is none of this id.
        """
        return parse_run(await self._connection.send(calls.act(schedule_id, "trigger")))
