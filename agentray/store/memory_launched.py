"""Launched agents, in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from agentray.ids import AgentId
from agentray.protocol.launching import ENDED
from agentray.store.base import (
    ALL_LAUNCHED,
    CommitOutcome,
    LaunchedAgent,
    LaunchedQuery,
    LaunchedWrite,
)
from agentray.store.codec import check_launched, decode, encode


class MemoryLaunched:
    """The part of a `Store` for launched agents."""

    _launched: dict[AgentId, LaunchedAgent]
    _states: dict[AgentId, tuple[str, int]]

    @abstractmethod
    def _holds(self, host: str, pool: str, slot: int, epoch: int) -> bool: ...

    async def put_launched(self, agents: Sequence[LaunchedAgent]) -> None:
        """Keep launched agents, whoever leases their slots; replaces earlier ones."""
        for launched in agents:
            check_launched(launched)
        self._launched.update({a.agent: _copied(a) for a in agents})

    async def keep_launched(
        self, host: str, writes: Sequence[LaunchedWrite]
    ) -> list[CommitOutcome]:
        """Keep, replace or forget launched agents where `host` leases their slots."""
        for write in writes:
            check_launched(write.launched)
        allowed = [self._holds(host, w.pool, w.slot, w.epoch) for w in writes]
        last = {w.launched.agent: w for w, may in zip(writes, allowed, strict=True) if may}
        for agent, write in last.items():
            if write.forget:
                self._launched.pop(agent, None)
            else:
                self._launched[agent] = _copied(write.launched)
            if write.delete_state:
                self._states.pop(agent, None)
        return [CommitOutcome.COMMITTED if may else CommitOutcome.FENCED for may in allowed]

    async def load_launched(self, agents: Sequence[AgentId]) -> dict[AgentId, LaunchedAgent]:
        """Return those of the agents that were launched."""
        return {agent: self._launched[agent] for agent in agents if agent in self._launched}

    async def list_launched(
        self, query: LaunchedQuery = ALL_LAUNCHED, *, limit: int = 1000
    ) -> list[LaunchedAgent]:
        """Return launched agents, newest first."""
        by_name = sorted(self._launched.values(), key=lambda launched: launched.agent)
        newest = sorted(by_name, key=lambda launched: launched.launched_at, reverse=True)
        return list(islice((a for a in newest if _matches(a, query)), limit))

    async def types_with_launched(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have launched agents, in whatever status."""
        return {agent.type for agent in self._launched} & set(agent_types)

    async def live_drivers(self) -> set[str]:
        """Return the connections with which agents end that have not ended yet."""
        return {a.driver for a in self._launched.values() if a.driver and a.status not in ENDED}


def _copied(launched: LaunchedAgent) -> LaunchedAgent:
    return replace(
        launched, labels=dict(launched.labels), options=decode(encode(dict(launched.options)))
    )


def _matches(launched: LaunchedAgent, query: LaunchedQuery) -> bool:
    return (
        (query.types is None or launched.agent.type in query.types)
        and query.key in {None, launched.agent.key}
        and query.labels.items() <= launched.labels.items()
        and (query.statuses is None or launched.status in query.statuses)
        and query.owner in {None, launched.owner}
        and query.driver in {None, launched.driver}
    )
