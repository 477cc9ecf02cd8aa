"""Schedules as the outside sees them: what is to happen when, and what has become of it."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentray.errors import ConfigurationError
from agentray.protocol.event_runs import OnError
from agentray.protocol.moments import Beginning, Moment
from agentray.protocol.webhooks import WebhookSpec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Missed(StrEnum):
    """What happens to firings whose time went by while nobody could fire them."""

    SKIP = "skip"  # nothing
    ONE = "one"  # one run stands for all of them
    ALL = "all"  # each has its run, in order, up to a bound


class Overlap(StrEnum):
    """What happens to a firing while an earlier run of the schedule has not ended."""

    ALLOW = "allow"  # it begins beside it
    SKIP = "skip"  # it falls out
    ENQUEUE = "enqueue"  # it begins when the earlier ones have ended


class ScheduleStatus(StrEnum):
    """Where a schedule is in its life."""

    ACTIVE = "active"
    PAUSED = "paused"  # by a person
    ENDED = "ended"  # it has no further times


class ScheduleTimes(BaseModel):
    """When a schedule fires, and what happens to firings that are late or meet each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str | None = Field(
        default=None,
        max_length=200,
        description="Five fields: minute, hour, day of the month, month, day of the week.",
    )
    timezone: str = Field(
        default="UTC", max_length=100, description="In which `cron` is read, as Europe/Berlin."
    )
    every_s: Annotated[float, Field(ge=1, le=366 * 86400, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds between two firings, instead of `cron`; counted from `starts_at`, "
        "else from the schedule's making.",
    )
    starts_at: Beginning | None = Field(default=None, description="Nothing fires before.")
    ends_at: Moment | None = Field(default=None, description="Nothing fires after.")
    jitter_s: float = Field(
        default=0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="Each run begins up to so many seconds after its time, spread evenly.",
    )
    missed: Missed = Field(
        default=Missed.ONE,
        description="What happens to firings that were missed while the cluster was down: `skip`, "
        "`one` run for all, or `all`.",
    )
    max_missed: int = Field(
        default=100, ge=1, le=1000, description="Most missed firings, the newest, that `all` makes."
    )
    grace_s: float = Field(
        default=60,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="A firing that comes no later than this has not been missed.",
    )
    overlap: Overlap = Field(
        default=Overlap.SKIP,
        description="What happens to a firing while an earlier run of the schedule has not ended: "
        "`allow`, `skip`, or `enqueue` it.",
    )
    max_queued: int = Field(
        default=100, ge=1, le=1000, description="Most runs that wait in turn with `enqueue`."
    )
    run_timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="Seconds from its beginning after which a run is ended as `timed_out`.",
    )
    webhook: WebhookSpec | None = Field(
        default=None, description="Whom to tell of the end of each run that it makes."
    )

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone; write one as Europe/Berlin") from None
        return name

    @property
    def tz(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)


class ScheduleSpec(ScheduleTimes):
    """What a schedule does, and when."""

    prompt: str | None = Field(default=None, min_length=1, description="What the agent is asked.")
    agent: str | None = Field(
        default=None,
        description="Who is asked: an agent type (a fresh instance each time) or type/key.",
    )
    event: dict[str, Any] | None = Field(
        default=None, description="The event that is dispatched instead of a prompt."
    )
    lineage: tuple[str, ...] = Field(default=(), description="The names of the event's classes.")
    on_error: OnError = Field(
        default=OnError.FAIL, description="What an error means for a run of the event."
    )


class Schedule(BaseModel):
    """A schedule as it is now."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: ScheduleStatus
    spec: ScheduleSpec
    next_at: datetime | None = Field(description="Of the next firing; null: there is none.")
    last_at: datetime | None = Field(default=None, description="The time of the last firing.")
    last_run: str | None = Field(default=None, description="Id of the last run it has made.")
    fired: int = Field(default=0, description="Runs that it has made.")
    skipped: int = Field(
        default=0, description="Firings that fell out: missed, or while an earlier run went on."
    )
    last_error: str | None = Field(
        default=None, description="Why a firing that is due cannot be made at the moment."
    )
    created_at: datetime
    updated_at: datetime
    owner: str = Field(default="", description="Who has made it: the id of an API key, or driver.")
    uid: str = Field(description="Names it among all that had its id.")
    revision: int = Field(default=1, description="Raised by each change.")
    next_times: tuple[datetime, ...] = Field(
        default=(), description="The next firings, as far as they are known; empty while paused."
    )


def check_schedule_id(schedule_id: str) -> str:
    """Return the id of a schedule when it is well formed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _ID.fullmatch(schedule_id):
        raise ConfigurationError(
            f"{schedule_id[:120]!r} is no id of a schedule: use 1 to 100 letters, digits, dots, "
            "dashes and underscores, beginning with a letter or digit."
        )
    return schedule_id
