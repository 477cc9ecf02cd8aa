"""API keys as the outside sees them: everything but the key."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Scope = Literal["invoke", "read", "admin"]


class KeyInfo(BaseModel):
    """An API key, without the key itself."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str = Field(description="For people.")
    scopes: list[Scope] = Field(
        description="`invoke`: give work and end it. `read`: look at it. `admin`: everything."
    )
    tenant: str | None = Field(
        description="Whose it is: it sees what this tenant has. null: it sees everything."
    )
    created_at: datetime
    revoked_at: datetime | None = Field(default=None, description="Since when it is of no use.")


class CreatedKey(KeyInfo):
    """A new API key, with the key: it is told this once."""

    secret: str = Field(description="The key. It is kept nowhere: who loses it makes another one.")
