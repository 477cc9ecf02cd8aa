"""The area `supervision` of the PostgreSQL store."""

from __future__ import annotations

from collections.abc import Sequence

from agentray.ids import AgentId
from agentray.store import rows
from agentray.store.codec import check_failure, check_text
from agentray.store.database import Database, Row
from agentray.store.supervision import AgentFailure, FailureKind, FailureWrite


class PostgresSupervision:
    """See `SupervisionStore`."""

    _database: Database

    async def keep_failures(self, host: str, writes: Sequence[FailureWrite]) -> set[AgentId]:
        """Keep, replace or forget failures of agents whose slots `host` leases."""
        for write in writes:
            if write.failure is not None:
                check_failure(write.failure)
        columns = rows.columns(
            (
                (write.pool, write.slot, write.epoch, *write.agent, *_fields(write.failure))
                for write in writes
            ),
            11,
        )
        found = await self._database.fetch("keep_failures", host, *columns)
        return {rows.agent_of(row) for row in found}

    async def put_failures(
        self, failures: Sequence[AgentFailure], *, forget: Sequence[AgentId] = ()
    ) -> None:
        """Keep failures, and forget those of other agents, whoever leases the slots."""
        for failure in failures:
            check_failure(failure)
        kept = rows.columns(((*f.agent, *_fields(f)) for f in failures), 8)
        gone = rows.columns(forget, 2)
        await self._database.execute("put_failures", *kept[:6], *gone, *kept[6:])

    async def load_failures(self, agents: Sequence[AgentId]) -> dict[AgentId, AgentFailure]:
        """Return the failures of those agents that have one."""
        found = await self._database.fetch("load_failures", *rows.columns(agents, 2))
        return {rows.agent_of(row): _failure_of(row) for row in found}

    async def list_failures(
        self,
        *,
        kinds: Sequence[FailureKind],
        agent_type: str | None = None,
        limit: int = 1000,
    ) -> list[AgentFailure]:
        """Return failures of these kinds, newest first."""
        names = [kind.value for kind in kinds]
        found = await self._database.fetch("list_failures", names, agent_type, limit)
        return [_failure_of(row) for row in found]

    async def types_with_failures(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have failed agents."""
        found = await self._database.fetch("types_with_failures", list(agent_types))
        return {row["agent_type"] for row in found}

    async def keep_permanent(self, agents: Sequence[tuple[AgentId, int]]) -> None:
        """Note agents, each with its slot, that are brought back whenever their host is lost."""
        for agent, _ in agents:
            check_text("key", agent.key)
        columns = rows.columns(((*agent, slot) for agent, slot in agents), 3)
        await self._database.execute("keep_permanent", *columns)

    async def forget_permanent(self, agents: Sequence[AgentId]) -> None:
        """Let agents come back with their next message only; harmless for others."""
        await self._database.execute("forget_permanent", *rows.columns(agents, 2))

    async def list_permanent(
        self, agent_types: Sequence[str], slots: Sequence[int], *, limit: int = 100_000
    ) -> list[AgentId]:
        """Return the agents of these types and slots that are to be brought back."""
        found = await self._database.fetch("list_permanent", list(agent_types), list(slots), limit)
        return [rows.agent_of(row) for row in found]


def _fields(failure: AgentFailure | None) -> tuple[object, ...]:
    if failure is None:
        return (None,) * 6
    kind = failure.kind.value
    return kind, failure.error, failure.traceback, failure.at, failure.deaths, failure.code


def _failure_of(row: Row) -> AgentFailure:
    return AgentFailure(
        rows.agent_of(row),
        FailureKind(row["kind"]),
        row["error"],
        row["traceback"],
        row["at"],
        row["deaths"],
        row["code"],
    )
