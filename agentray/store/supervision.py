"""What is kept of agents in trouble, and of those that must not be missing.

The area `supervision` of the Store; see `store/base.py` for what all areas promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from agentray.ids import AgentId


class FailureKind(StrEnum):
    """What is the matter with an agent."""

    FAILED = "failed"  # its restart policy gave it up: it is not started again before a reset
    SUSPECTED = "suspected"  # its host died while it was under way: it is tried alone
    QUARANTINED = "quarantined"  # it has killed too many hosts: it takes no messages


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """Why an agent is in trouble; kept until it is reset, or has proved itself.

    Attributes:
        agent: whom it is about.
        kind: what is the matter.
        error: the last one, as `Type: message`; or how its hosts died.
        traceback: of that error, as Python prints it; "": there is none.
        at: when that was.
        deaths: of hosts that it is blamed for.
        code: digest of its class's source at that time.
    """

    agent: AgentId
    kind: FailureKind
    error: str
    traceback: str
    at: datetime
    deaths: int = 0
    code: str = ""


@dataclass(frozen=True, slots=True)
class FailureWrite:
    """A change of an agent's failure by the host that leases its slot; None: it is forgotten."""

    pool: str
    slot: int
    epoch: int
    agent: AgentId
    failure: AgentFailure | None


class SupervisionStore(Protocol):
    """The part of the Store about supervision."""

    async def keep_failures(self, host: str, writes: Sequence[FailureWrite]) -> set[AgentId]:
        """Keep, replace or forget failures of agents whose slots `host` leases; at most one each.

        Checked and written in one transaction.

        Returns:
            The agents for which it was done; the others were fenced.

        Raises:
            PayloadError: a text cannot be stored; nothing was written.
        """
        ...

    async def put_failures(
        self, failures: Sequence[AgentFailure], *, forget: Sequence[AgentId] = ()
    ) -> None:
        """Keep failures, and forget those of other agents, whoever leases the slots.

        Raises:
            PayloadError: a text cannot be stored; nothing was written.
        """
        ...

    async def load_failures(self, agents: Sequence[AgentId]) -> dict[AgentId, AgentFailure]:
        """Return the failures of those agents that have one."""
        ...

    async def list_failures(
        self,
        *,
        kinds: Sequence[FailureKind],
        agent_type: str | None = None,
        limit: int = 1000,
    ) -> list[AgentFailure]:
        """Return failures of these kinds, newest first."""
        ...

    async def types_with_failures(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have failed agents."""
        ...

    async def keep_permanent(self, agents: Sequence[tuple[AgentId, int]]) -> None:
        """Note agents, each with its slot, that are brought back whenever their host is lost."""
        ...

    async def forget_permanent(self, agents: Sequence[AgentId]) -> None:
        """Let agents come back with their next message only; harmless for others."""
        ...

    async def list_permanent(
        self, agent_types: Sequence[str], slots: Sequence[int], *, limit: int = 100_000
    ) -> list[AgentId]:
        """Return the agents of these types and slots that are to be brought back."""
        ...
