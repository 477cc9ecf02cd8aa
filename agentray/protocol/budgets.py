"""Budgets of runs: what one may use, and what it has used."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat


class Budget(BaseModel):
    """What a run may use. What is left out has no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wall_s: PositiveFloat | None = Field(
        default=None, description="Seconds of work: without the time in which it waits."
    )
    tokens: NonNegativeInt | None = Field(default=None, description="Tokens of language models.")
    tool_calls: NonNegativeInt | None = Field(default=None, description="Calls of tools.")
    cost: NonNegativeFloat | None = Field(
        default=None, description="Cost, in whatever currency its agents count."
    )

    def over(self, other: Budget) -> Budget:
        """Return this budget, with the limits of another where it has none."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


class Usage(BaseModel):
    """What a run has used, all of its attempts together."""

    model_config = ConfigDict(frozen=True)

    wall_s: float = Field(default=0.0, description="Seconds of work.")
    tokens: int = 0
    tool_calls: int = 0
    cost: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(
            wall_s=self.wall_s + other.wall_s,
            tokens=self.tokens + other.tokens,
            tool_calls=self.tool_calls + other.tool_calls,
            cost=self.cost + other.cost,
        )
