"""Schedules as a driver has them: `manager.schedules`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from pydantic import ValidationError

from agentray.agent import Agent
from agentray.errors import InvalidSchedule
from agentray.event_run import OnErrorName
from agentray.events import Event
from agentray.ids import AgentId, TopicId
from agentray.protocol.runs import Run
from agentray.protocol.schedules import Schedule, ScheduleSpec
from agentray.protocol.webhooks import WebhookSpec
from agentray.runtime.watcher import ManagerPort

_PAGE = 200


class ScheduleOptions(TypedDict, total=False):
    """What a schedule does, and when; see `ScheduleSpec` for each of them."""

    prompt: str
    agent: AgentId | type[Agent] | str
    event: Event
    topic: TopicId | str
    on_error: OnErrorName
    cron: str
    timezone: str
    every_s: float
    starts_at: datetime
    ends_at: datetime
    jitter_s: float
    missed: Literal["skip", "one", "all"]
    max_missed: int
    grace_s: float
    overlap: Literal["allow", "skip", "enqueue"]
    max_queued: int
    run_timeout_s: float
    webhook: WebhookSpec


class ScheduleClient:
    """Makes schedules and looks after them."""

    def __init__(self, manager: ManagerPort) -> None:
        """Made by the manager's client.

        Args:
            manager: has them.
        """
        self._manager = manager

    async def create(
        self, schedule_id: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Make a schedule: prompt an agent, or dispatch an event, again and again.

        A driver may do it each time that it starts: one that says the same is found.

        Args:
            schedule_id: its id, such as `nightly`; None: a new one.
            options: `prompt` with `agent` (None: the entry of the deployed app), or `event` with
                `topic` and `on_error`. `cron`, five fields read in `timezone`, or `every_s`.
                `starts_at`, `ends_at`; `jitter_s`; `run_timeout_s`; `webhook`, whom a gateway tells
                of the end of each run. What happens to firings that were missed: `missed` ("one",
                "skip", "all"), `max_missed`, `grace_s`. And while an earlier run has not ended:
                `overlap` ("skip", "allow", "enqueue"), `max_queued`.

        Raises:
            InvalidSchedule: an option is wrong; it is named.
            ScheduleConflict: another schedule has the id.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take its runs.
        """
        spec = spec_of(options)
        schedule, _ = await self._call("create", schedule_id, spec, "driver")
        return schedule

    async def replace(self, schedule_id: str, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Let a schedule say something else from now on; it stays paused if it is.

        Args:
            schedule_id: its id.
            options: all of them, see `create`.

        Raises:
            UnknownSchedule: there is none of this id.
            InvalidSchedule: an option is wrong.
        """
        return await self._call("replace", schedule_id, spec_of(options))

    async def get(self, schedule_id: str) -> Schedule:
        """Return a schedule as it is now, with its next times.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        return await self._call("get", schedule_id)

    async def list(self, *, after: str = "", limit: int = 100) -> list[Schedule]:
        """Return schedules in the order of their ids.

        Args:
            after: id of the last one already seen.
            limit: most of them.
        """
        return await self._call("list", after, limit)

    async def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule make no runs until it is resumed.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        return await self._call("pause", schedule_id)

    async def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule fire again, from now on: what it did not do meanwhile is over.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        return await self._call("resume", schedule_id)

    async def delete(self, schedule_id: str) -> None:
        """Forget a schedule; runs that it has made stay, also those that have not begun.

        Raises:
            UnknownSchedule: there is none of this id.
        """
        await self._call("delete", schedule_id)

    async def trigger(self, schedule_id: str) -> Run:
        """Make a run of a schedule now, beside its times; returns it as `queued`.

        Raises:
            UnknownSchedule: there is none of this id.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take the run.
        """
        return await self._call("trigger", schedule_id)

    async def _call(self, what: str, *args: Any) -> Any:
        return await self._manager.call("schedules", what, *args)


def spec_of(options: ScheduleOptions) -> ScheduleSpec:
    """Return what is asked for.

    Raises:
        InvalidSchedule: an option is wrong.
        PayloadError: the event has no JSON.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    topic = given.pop("topic", None)
    event = given.get("event")
    if event is not None:
        if not isinstance(event, Event):
            raise InvalidSchedule("event", f"{event!r} is none")
        if topic is not None:
            event = event.on_topic(topic)
        given |= {"event": event.to_json(), "lineage": event.event_lineage}
    elif topic is not None:
        raise InvalidSchedule("topic", "only an event is on one")
    match options.get("agent"):
        case AgentId() as agent_id:
            given["agent"] = str(agent_id)
        case type() as agent:
            given["agent"] = agent.agent_type.name
        case _:
            pass
    try:
        return ScheduleSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "options"
        raise InvalidSchedule(field, first["msg"].removeprefix("Value error, ")) from error
