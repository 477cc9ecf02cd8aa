"""The area `supervision` of the store in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from agentray.ids import AgentId
from agentray.store.codec import check_failure, check_text
from agentray.store.supervision import AgentFailure, FailureKind, FailureWrite


class MemorySupervision:
    """See `SupervisionStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._failures: dict[AgentId, AgentFailure] = {}
        self._permanent: dict[AgentId, int] = {}  # and their slots

    @abstractmethod
    def _holds(self, host: str, pool: str, slot: int, epoch: int) -> bool: ...

    async def keep_failures(self, host: str, writes: Sequence[FailureWrite]) -> set[AgentId]:
        """Keep, replace or forget failures of agents whose slots `host` leases."""
        for write in writes:
            if write.failure is not None:
                check_failure(write.failure)
        allowed = [w for w in writes if self._holds(host, w.pool, w.slot, w.epoch)]
        for write in allowed:
            if write.failure is None:
                self._failures.pop(write.agent, None)
            else:
                self._failures[write.agent] = write.failure
        return {write.agent for write in allowed}

    async def put_failures(
        self, failures: Sequence[AgentFailure], *, forget: Sequence[AgentId] = ()
    ) -> None:
        """Keep failures, and forget those of other agents, whoever leases the slots."""
        for failure in failures:
            check_failure(failure)
        for agent in forget:
            self._failures.pop(agent, None)
        self._failures.update({failure.agent: failure for failure in failures})

    async def load_failures(self, agents: Sequence[AgentId]) -> dict[AgentId, AgentFailure]:
        """Return the failures of those agents that have one."""
        return {agent: self._failures[agent] for agent in agents if agent in self._failures}

    async def list_failures(
        self,
        *,
        kinds: Sequence[FailureKind],
        agent_type: str | None = None,
        limit: int = 1000,
    ) -> list[AgentFailure]:
        """Return failures of these kinds, newest first."""
        found = [
            failure
            for failure in sorted(self._failures.values(), key=lambda failure: failure.agent)
            if failure.kind in kinds and agent_type in {None, failure.agent.type}
        ]
        return sorted(found, key=lambda failure: failure.at, reverse=True)[:limit]

    async def types_with_failures(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have failed agents."""
        failed = {a.type for a, f in self._failures.items() if f.kind is FailureKind.FAILED}
        return failed & set(agent_types)

    async def keep_permanent(self, agents: Sequence[tuple[AgentId, int]]) -> None:
        """Note agents, each with its slot, that are brought back whenever their host is lost."""
        for agent, _ in agents:
            check_text("key", agent.key)
        for agent, slot in agents:
            self._permanent.setdefault(agent, slot)

    async def forget_permanent(self, agents: Sequence[AgentId]) -> None:
        """Let agents come back with their next message only; harmless for others."""
        for agent in agents:
            self._permanent.pop(agent, None)

    async def list_permanent(
        self, agent_types: Sequence[str], slots: Sequence[int], *, limit: int = 100_000
    ) -> list[AgentId]:
        """Return the agents of these types and slots that are to be brought back."""
        wanted, leased = set(agent_types), set(slots)
        found = (a for a, slot in self._permanent.items() if a.type in wanted and slot in leased)
        return sorted(found)[:limit]
