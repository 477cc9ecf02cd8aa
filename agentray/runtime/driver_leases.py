"""Driver leases: agents that were launched for a connection end with it.

A connection renews its lease; when its process dies, the lease runs out, and the manager shuts down
what belonged to it. The Store says which connections have agents: a manager that comes back gives
each of them the time to renew.
"""

from __future__ import annotations

import asyncio
import logging

from agentray.errors import AgentrayError
from agentray.ids import AgentId
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import AgentStatus, LifeCall, ShutdownOrder
from agentray.runtime.channel import Channel
from agentray.runtime.tasks import TaskSet
from agentray.store.base import LaunchedQuery, Store

logger = logging.getLogger(__name__)

LEASE_S = 15.0
"""How long a connection may be silent before its agents are shut down."""

SWEEP_S = 5.0
_GRACE_S = 5.0
_SLACK_S = 30.0
_ALL = 1_000_000


class DriverLeases:
    """Knows which connections live, and ends the agents of the others."""

    def __init__(self, store: Store, channel: Channel) -> None:
        """Make one; needs a running event loop.

        Args:
            store: where launched agents are.
            channel: the manager's way to them.
        """
        self._store = store
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._expires: dict[str, float] = {}
        self._ending: set[str] = set()
        self._tasks = TaskSet("driver leases")
        self._swept_at: float | None = None

    def renew(self, driver: str, lease_s: float) -> None:
        """Let a connection live for `lease_s` more seconds."""
        self._expires[driver] = self._loop.time() + lease_s

    async def end(self, driver: str, grace_s: float) -> None:
        """Shut down what belongs to a connection, and return when it has stopped."""
        self._expires.pop(driver, None)
        alive = (AgentStatus.REGISTERED, AgentStatus.RUNNING)
        query = LaunchedQuery(driver=driver, statuses=alive)
        found = await self._store.list_launched(query, limit=_ALL)
        await asyncio.gather(*(self._shut_down(agent.agent, grace_s) for agent in found))

    async def _shut_down(self, agent: AgentId, grace_s: float) -> None:
        payload, timeout = encode(ShutdownOrder(grace_s)), grace_s + _SLACK_S
        try:
            await self._channel.request(
                Kind.LAUNCH, agent, LifeCall.SHUTDOWN, payload, timeout=timeout
            )
        except AgentrayError as error:
            # It is still alive in the Store: the next sweep tries again.
            extra = {"action": "driver_agent_not_stopped", "agent": str(agent)}
            logger.warning("%s was not shut down: %s", agent, error, extra=extra)

    async def sweep(self) -> None:
        """End the agents of connections that are gone, every few seconds."""
        now = self._loop.time()
        if self._swept_at is not None and now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        for driver in await self._store.live_drivers():
            # An unknown one: this manager is new, or the driver died before it could renew.
            expired = self._expires.setdefault(driver, now + LEASE_S) <= now
            if expired and driver not in self._ending:
                self._ending.add(driver)
                self._tasks.spawn(self._expire(driver), name=f"end agents of {driver}")
        self._expires = {d: t for d, t in self._expires.items() if t > now or d in self._ending}

    async def _expire(self, driver: str) -> None:
        extra = {"action": "driver_lost", "driver": driver}
        logger.warning("driver %s is gone: its agents are shut down", driver, extra=extra)
        try:
            await self.end(driver, _GRACE_S)
            self._expires[driver] = self._loop.time()  # what is left is tried again
        finally:
            self._ending.discard(driver)

    async def close(self) -> None:
        """Stop looking."""
        await self._tasks.close()
