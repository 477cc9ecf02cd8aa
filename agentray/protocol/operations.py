"""What operators are told over HTTP."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class Drained(BaseModel):
    """How far something has left."""

    model_config = ConfigDict(extra="allow", frozen=True)

    drained: bool = Field(description="It has left; false: it goes on leaving.")
    waiting: str = Field(default="", description="What it waits for.")


class FailedAgent(BaseModel):
    """An agent that does not start any more until it is reset."""

    model_config = ConfigDict(frozen=True)

    agent: str = Field(description="As type/key.")
    kind: str = Field(description="`failed`, or `quarantined` because it kills its hosts.")
    error: str
    traceback: str
    at: datetime
    deaths: int = Field(description="Hosts whose deaths it is blamed for.")


class RunningGroup(BaseModel):
    """A group of agents that started with its app."""

    model_config = ConfigDict(frozen=True)

    group: str = Field(description="As type/key.")
    app: str
    status: str = Field(description="registered, running, stopped or failed.")
    last_error: str | None = None


class Left(BaseModel):
    """Something that nobody looks after."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(description="`actor` or `row`.")
    name: str
    why: str


class LeftOver(BaseModel):
    """What was left over of hosts."""

    model_config = ConfigDict(frozen=True)

    found: list[Left]
    ended: bool = Field(description="It was ended; false: it was only looked at.")
