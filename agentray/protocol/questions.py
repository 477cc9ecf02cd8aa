"""Questions that runs ask people, and their answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Question(BaseModel):
    """What a run needs to be told by a person before it goes on."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    answer_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of the answer; null: any JSON."
    )
    details: Any = Field(default=None, description="What else a person needs to know, as JSON.")
    agent: str = Field(description="The agent that asks, as type/key.")
    asked_at: datetime


class Answer(BaseModel):
    """What a person told a run."""

    model_config = ConfigDict(frozen=True)

    question: Question
    value: Any
    key: str = ""  # by which a repetition is known; "": by its value alone
    answered_at: datetime
