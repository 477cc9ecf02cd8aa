"""Calls about schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple, TypedDict

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.schedules import Schedule
from agentray.protocol.webhooks import WebhookSpec


class ScheduleOptions(TypedDict, total=False):
    """When a schedule fires; the gateway's document says what each of them means."""

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


class SchedulePage(NamedTuple):
    """Some schedules, and what to give as `after` for the next page."""

    schedules: list[Schedule]
    next: str | None


class _Page(BaseModel):
    schedules: list[Schedule]
    next: str | None


_schedule = TypeAdapter(Schedule)
_page = TypeAdapter(_Page)


def create(schedule_id: str, prompt: str, agent: str | None, options: ScheduleOptions) -> Request:
    """Make a schedule. With its id, asking again does no harm."""
    body = _body(prompt, agent, options) | {"id": schedule_id}
    return post(path_of("schedules"), body, harmless=True)


def replace(schedule_id: str, prompt: str, agent: str | None, options: ScheduleOptions) -> Request:
    """Let a schedule say something else."""
    body = _body(prompt, agent, options)
    return post(path_of("schedules", schedule_id), body, method="PUT")


def get(schedule_id: str) -> Request:
    """Look at a schedule."""
    return Request("GET", path_of("schedules", schedule_id))


def list_schedules(limit: int, after: str) -> Request:
    """List schedules."""
    return Request("GET", path_of("schedules"), query_of(limit=limit, after=after))


def delete(schedule_id: str) -> Request:
    """Forget a schedule."""
    return Request("DELETE", path_of("schedules", schedule_id))


def act(schedule_id: str, action: Literal["pause", "resume", "trigger"]) -> Request:
    """Pause, resume or trigger a schedule. Triggered twice, it makes two runs."""
    harmless = action != "trigger"
    return post(path_of("schedules", schedule_id, action), harmless=harmless)


def parse_schedule(response: Response) -> Schedule:
    """Read a schedule.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _schedule)


def parse_schedules(response: Response) -> SchedulePage:
    """Read a list of schedules.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _page)
    return SchedulePage(page.schedules, page.next)


def _body(prompt: str, agent: str | None, options: ScheduleOptions) -> dict[str, Any]:
    given: dict[str, Any] = {"prompt": prompt, "agent": agent, **options}
    return {name: _as_json(value) for name, value in given.items() if value is not None}


def _as_json(value: Any) -> Any:
    if isinstance(value, WebhookSpec):
        return value.model_dump(mode="json", exclude_none=True)
    return value.isoformat() if isinstance(value, datetime) else value
