"""Sessions as the outside sees them: a keyed agent and the ordered runs of its prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agentray.errors import ConfigurationError
from agentray.protocol.access import AccessLevel
from agentray.protocol.runs import Run

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

MAX_TTL_S = 10 * 365 * 86_400.0
"""The longest time that a session may be kept without being used: ten years."""

MAX_LABELS = 64
"""Labels of one session."""


class SessionPolicy(StrEnum):
    """What happens to a prompt that comes while its session has a run under way."""

    ENQUEUE = "enqueue"  # it begins when the earlier ones have ended
    REJECT = "reject"  # it is refused
    INTERRUPT = "interrupt"  # the earlier ones are cancelled first; what was committed stays
    ROLLBACK = "rollback"  # the same, and the agent's state goes back to what it was before


PolicyName = Literal["enqueue", "reject", "interrupt", "rollback"]


def check_policy(policy: str) -> SessionPolicy:
    """Return a policy by its name.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return SessionPolicy(policy)
    except ValueError:
        known = ", ".join(repr(each.value) for each in SessionPolicy)
        raise ConfigurationError(f"policy is one of {known}: {policy!r}.") from None


def check_session_id(session_id: str) -> str:
    """Return an id for a session when it is well formed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _ID.fullmatch(session_id):
        raise ConfigurationError(
            f"A session's id has 1 to 100 letters, digits, '.', '-' or '_', and begins with a "
            f"letter or digit: {session_id!r}."
        )
    return session_id


Label = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[
    dict[Label, Annotated[str, Field(max_length=1000)]], Field(max_length=MAX_LABELS)
]
Ttl = Annotated[float, Field(gt=0, le=MAX_TTL_S, allow_inf_nan=False)]


class SessionFields(BaseModel):
    """What may be changed of a session."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    access_level: AccessLevel = Field(
        default=AccessLevel.PUBLIC,
        description="What the agent's tools may touch: `public`, `read` (private data), or `write` "
        "(also changing it). It holds for prompts that are accepted from then on.",
    )
    title: str | None = Field(default=None, max_length=500, description="For people.")
    labels: Labels = Field(
        default_factory=dict[str, str], description="By which sessions are found."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Whatever its user wants to keep with it: JSON."
    )
    ttl_s: Ttl | None = Field(
        default=None,
        description="Seconds after its last prompt or change after which it is forgotten, unless a "
        "run of it is under way. Left out: it is kept.",
    )


class Session(SessionFields):
    """A keyed agent, and the runs of the prompts that it was given in this session, in order."""

    id: str
    agent: str = Field(description="Its agent, as type/key.")
    owner: str = Field(default="", description="Id of the API key that made it.")
    tenant: str | None = Field(default=None, description="Whose it is.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = Field(
        default=None, description="When it is forgotten, if nothing happens until then."
    )
    copied_from: str | None = Field(default=None, description="The session that it is a copy of.")
    version: int = Field(
        default=1, description="Rises with each change; the `ETag` that an `If-Match` names."
    )

    @property
    def owns_agent(self) -> bool:
        """Whether the agent was made for it: then the agent's state ends with the session."""
        return self.agent.partition("/")[2] == self.id


class SessionRun(BaseModel):
    """One run of a session's history."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(description="Its place in the session, from 1.")
    prompt: str = Field(description="What the agent was asked.")
    rolled_back: bool = Field(
        default=False,
        description="A later prompt rolled it back: the agent's state is as if it had not been.",
    )
    run: Run


class SessionQuery(NamedTuple):
    """Which sessions are looked for; None and {}: all.

    Attributes:
        labels: all of these.
        owner: id of the API key that made them.
        agent_type: of their agents.
        agent_key: of their agents.
        tenant: to whom they belong.
    """

    labels: Mapping[str, str] = {}
    owner: str | None = None
    agent_type: str | None = None
    agent_key: str | None = None
    tenant: str | None = None


SESSION, ACCESS = "session", "access"
"""In the input of a run: the session that it belongs to, and the access level that it has."""
