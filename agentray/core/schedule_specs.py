"""What is wrong with a schedule that is asked for, beyond single fields."""

from __future__ import annotations

from datetime import datetime

from agentray.core.recurrence import Recurrence, check_cron
from agentray.errors import ConfigurationError, InvalidSchedule
from agentray.ids import AgentId, check_type_name
from agentray.protocol.schedules import Missed, Overlap, ScheduleSpec


def check_spec(spec: ScheduleSpec) -> None:
    """Check that the fields of a schedule fit each other.

    Raises:
        InvalidSchedule: they do not; it names one of them.
    """
    if (spec.prompt is None) == (spec.event is None):
        raise InvalidSchedule("prompt", "give a prompt or an event, one of them")
    if spec.event is not None and spec.agent is not None:
        raise InvalidSchedule("agent", "an event goes to whoever subscribes to it")
    if spec.agent is not None:
        _check_agent(spec.agent)
    if (spec.cron is None) == (spec.every_s is None):
        raise InvalidSchedule("cron", "give cron or every_s, one of them")
    if spec.cron is not None:
        try:
            check_cron(spec.cron)
        except ConfigurationError as error:
            raise InvalidSchedule("cron", str(error)) from error
    if spec.starts_at is not None and spec.ends_at is not None and spec.ends_at < spec.starts_at:
        raise InvalidSchedule("ends_at", "it is before starts_at")
    if spec.missed is Missed.ALL and spec.overlap is Overlap.SKIP:
        raise InvalidSchedule(
            "overlap",
            "of several missed firings only one would be left: with missed=all write enqueue, or "
            "allow",
        )


def _check_agent(agent: str) -> None:
    try:
        check_type_name(agent) if "/" not in agent else AgentId.parse(agent)
    except ConfigurationError as error:
        raise InvalidSchedule("agent", str(error).rstrip(".")) from error


def first_time(rule: Recurrence, now: datetime) -> datetime:
    """Return when a new schedule fires first.

    Raises:
        InvalidSchedule: never.
    """
    found = rule.next_after(now)
    if found is None:
        raise InvalidSchedule("ends_at", "it has no time between now and its end")
    return found
