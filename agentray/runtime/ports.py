"""What the runtime's parts know of each other: narrow interfaces, so that each can stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunEvent
from agentray.store.base import NewRun


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent belongs."""

    agent: AgentId
    pool: str
    slot: int


class RunDispatcher(Protocol):
    """Hands admitted runs to the hosts that lease their agents, and looks at running ones."""

    def place(self, agent_type: str | None, key: str | None, fresh_key: str) -> Place:
        """Find out where a prompt goes.

        Args:
            agent_type: its agent type; None: the entry of the deployed app.
            key: its key; None: `fresh_key`, an instance of its own for this run.
            fresh_key: the key used when there is none.

        Raises:
            UnknownAgentType: no such type; or None was given and no app has an entry.
            NoHandler: the type takes no prompts.
            DeploymentStopped: its app is stopped, or no host of its pool is up.
        """
        ...

    async def run(self, run: NewRun) -> Run:
        """Give an admitted run to its host and return it when it has ended.

        Safe to repeat: a run that the host knows is joined, one that has ended is read. Cancelling
        this call leaves the run alone.

        Raises:
            DeploymentStopped: nowhere to run now; the manager gives it to a host later.
            ChannelClosed: this process is going away.
        """
        ...

    async def watch(self, agent: AgentId, run_id: str, after: int, wait_s: float) -> list[RunEvent]:
        """Return events of a run with an offset above `after`, waiting up to `wait_s` for the first.

        Only events that are in the Store are returned. [] after `wait_s` without one.

        Raises:
            CallError: the host cannot be asked now; read the Store instead.
        """
        ...

    async def join(self, agent: AgentId, run_id: str) -> Run:
        """Return a run when it has ended.

        Raises:
            UnknownRun: there is none of this id.
            CallError: the host cannot be asked now.
        """
        ...


class RunningHosts(Protocol):
    """What `/readyz` asks."""

    def ready(self) -> Sequence[str]:
        """Return what is missing before prompts can be served; empty when ready."""
        ...
