"""Permanent agents on the host's side: they are brought back without waiting for a message.

Which agents are permanent is noted in the Store when they start. A host that gets leases looks
which of them belong there, and activates them: after the death or replacement of their host, and
after a restart of the whole cluster.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agentray.agent import AgentOptions
from agentray.errors import StoreUnavailable
from agentray.ids import AgentId, slot_of
from agentray.runtime.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_MAX_BATCH = 512
_ALL = 1_000_000
_STORE_RETRY_S = 0.5

_AT_ONCE = 32
"""Agents that are activated before the event loop does other things."""


def is_permanent(options: AgentOptions) -> bool:
    """Whether agents with these options stay in memory, and are brought back."""
    return options.restart.restart == "permanent"


class Permanents:
    """Brings the permanent agents of a host's slots into memory."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._noted: set[AgentId] = set()
        self._brought: set[AgentId] = set()  # and not started yet
        self._looking: asyncio.Task[None] | None = None
        self._again = False

        async def note(batch: Sequence[AgentId]) -> Sequence[None]:
            await host.store.keep_permanent([(agent, slot_of(agent)) for agent in batch])
            return [None] * len(batch)

        self._notes = GroupCommit(
            note, max_batch=_MAX_BATCH, max_waiting=_ALL, name="permanent agents"
        )

    async def note(self, agent_id: AgentId, options: AgentOptions) -> None:
        """Have an agent that starts brought back from now on, or not any more."""
        brought = agent_id in self._brought
        self._brought.discard(agent_id)
        if not is_permanent(options):
            if brought:
                await self.forget(agent_id)  # it was permanent with other code
        elif agent_id not in self._noted:
            await self._notes.submit(agent_id)
            self._noted.add(agent_id)

    async def forget(self, agent_id: AgentId) -> None:
        """Let an agent come back only when somebody wants it."""
        self._noted.discard(agent_id)
        await self._host.store.forget_permanent([agent_id])

    def look(self) -> None:
        """Bring back what belongs here and is not in memory: leases or code have come."""
        self._again = True
        if self._looking is None or self._looking.done():
            self._looking = self._host.tasks.spawn(self._look(), name="bring agents back")

    async def _look(self) -> None:
        while self._again:
            self._again = False
            types = list(self._host.types)
            slots = sorted({slot for _, slot in self._host.held.held})
            if not types or not slots:
                return
            try:
                found = await self._host.store.list_permanent(types, slots)
            except StoreUnavailable:
                self._again = True
                await asyncio.sleep(_STORE_RETRY_S)
                continue
            await self._bring_back(found)

    async def _bring_back(self, agents: Sequence[AgentId]) -> None:
        brought = 0
        for agent_id in agents:
            if not self._wanted(agent_id):
                continue
            self._brought.add(agent_id)
            self._host.residents.activate(agent_id, self._host.types[agent_id.type].type)
            brought += 1
            if brought % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if brought:
            extra = {"action": "agents_brought_back", "host": self._host.host_id}
            logger.info("%d permanent agents were brought back", brought, extra=extra)

    def _wanted(self, agent_id: AgentId) -> bool:
        host = self._host
        view = host.channel.snapshot.types.get(agent_id.type)
        return (
            agent_id.type in host.types
            and view is not None
            and not view.stopped
            and host.leases(agent_id)
            and host.find(agent_id) is None
            and not host.launching.is_stopping(agent_id)
        )
