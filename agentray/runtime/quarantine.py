"""Quarantine on the manager's side: what is held against agents whose hosts died.

It is kept in the Store; what is decided about it is in `core/blame.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from agentray.config import QUARANTINE_AFTER
from agentray.core.blame import Scene, Suspicion, blame, cleared
from agentray.core.deaths import Death
from agentray.errors import StoreUnavailable
from agentray.ids import AgentId
from agentray.runtime.flight_record import Flight
from agentray.store.base import Store
from agentray.store.supervision import AgentFailure, FailureKind

logger = logging.getLogger(__name__)

_MAX_QUARANTINED = 10_000


class Quarantine:
    """Knows the agents in quarantine, and those that are suspected."""

    def __init__(self, store: Store, limit: int = QUARANTINE_AFTER) -> None:
        """Make it empty.

        Args:
            store: where it is kept.
            limit: deaths of hosts after which an agent is quarantined; 0: none ever is.
        """
        self._store = store
        self._limit = limit
        self._against: dict[AgentId, Suspicion] = {}
        self.quarantined: dict[AgentId, str] = {}

    @property
    def suspects(self) -> dict[AgentId, bool]:
        """Agents that may have killed a host, and whether each host runs them one at a time."""
        return {
            agent: held.alone
            for agent, held in self._against.items()
            if agent not in self.quarantined
        }

    async def load(self) -> None:
        """Read what was known before."""
        kinds = (FailureKind.QUARANTINED, FailureKind.SUSPECTED)
        for failure in await self._store.list_failures(kinds=kinds, limit=_MAX_QUARANTINED):
            # Which of the deaths were proved is not kept: they count as suspicion.
            self._against[failure.agent] = Suspicion((), failure.deaths, alone=True)
            if failure.kind is FailureKind.QUARANTINED:
                self.quarantined[failure.agent] = failure.error

    def host_died(self, death: Death, flight: Flight | None) -> list[AgentFailure]:
        """Hold a death against those that may have brought it about; return what `keep` keeps."""
        if not self._limit or flight is None:
            return []
        scene = Scene(
            death.cause,
            _text(flight.now),
            [str(agent) for agent in flight.turns],
            [str(agent) for agent in flight.loops],
        )
        now = datetime.now(UTC)
        known = {str(agent): held for agent, held in self._against.items()}
        changed = {
            AgentId.parse(agent): held
            for agent, held in blame(scene, known, now.timestamp()).items()
        }
        self._against |= changed
        return [self._judge(agent, death, now) for agent in changed]

    def _judge(self, agent: AgentId, death: Death, now: datetime) -> AgentFailure:
        deaths = self._against[agent].deaths(now.timestamp())
        hosts = {0: "a host", 1: "1 host"}.get(deaths, f"{deaths} hosts")
        error = f"{hosts} died while it was under way, the last one so: {death.reason}"
        kind = FailureKind.SUSPECTED
        if deaths >= self._limit:
            kind = FailureKind.QUARANTINED
            self.quarantined[agent] = error
            extra = {"action": "agent_quarantined", "agent": str(agent)}
            logger.error("%s is quarantined: %s", agent, error, extra=extra)
        else:
            extra = {"action": "agent_suspected", "agent": str(agent)}
            logger.warning("%s is suspected: %s", agent, error, extra=extra)
        return AgentFailure(agent, kind, error, "", now, deaths)

    async def proved(self, agents: Iterable[AgentId]) -> bool:
        """Clear agents that have finished something; return whether that changes anything."""
        now = datetime.now(UTC).timestamp()
        gone: list[AgentId] = []
        for agent in self.suspects.keys() & set(agents):
            left = cleared(self._against[agent], now)
            if left is None:
                del self._against[agent]
                gone.append(agent)
            else:
                self._against[agent] = left
        if gone:
            await self.keep([], forget=gone)
        return bool(gone)

    async def release(self, agent: AgentId) -> bool:
        """Let an agent out; return whether it was in."""
        if agent in self._against:
            await self._store.put_failures([], forget=[agent])
            del self._against[agent]
        return self.quarantined.pop(agent, None) is not None

    async def keep(
        self, failures: list[AgentFailure], *, forget: list[AgentId] | None = None
    ) -> None:
        """Keep what was decided, after what is urgent."""
        if not failures and not forget:
            return
        try:
            await self._store.put_failures(failures, forget=forget or [])
        except StoreUnavailable as error:
            # It holds in memory; a fail-over does not wait for it.
            logger.warning("%s", error, extra={"action": "suspicion_not_kept"})

    def told(self) -> Mapping[AgentId, str]:
        """Return the quarantined agents, as the snapshot tells them."""
        return dict(self.quarantined)


def _text(agent: AgentId | None) -> str | None:
    return None if agent is None else str(agent)
