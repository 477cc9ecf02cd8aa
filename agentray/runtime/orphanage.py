"""Finds what is left over of hosts, and ends it: by itself, and when somebody asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from agentray.core.orphans import KnownHost, Orphan, orphans
from agentray.protocol.snapshot import HostRef
from agentray.runtime.leadership import Leadership
from agentray.runtime.ports import HostFactory
from agentray.store.base import HostRow, Store

logger = logging.getLogger(__name__)

SWEEP_S = 60.0
"""Between two looks of the manager by itself."""


class Orphanage:
    """Looks after what nobody looks after."""

    def __init__(
        self, store: Store, factory: HostFactory, lead: Leadership, supervised: Collection[str]
    ) -> None:
        """Made by the manager.

        Args:
            store: of its lead.
            factory: ends hosts.
            lead: says which cluster this is.
            supervised: ids of the hosts that the manager knows, as they come and go.
        """
        self._store = store
        self._factory = factory
        self._lead = lead
        self._supervised = supervised
        self._swept_at: float | None = None

    async def sweep(self) -> None:
        """End what is left over, every minute."""
        now = asyncio.get_running_loop().time()
        if self._swept_at is None or now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            await self.reap(dry_run=False)

    async def reap(self, *, dry_run: bool) -> list[Orphan]:
        """Return what is left over; ended, unless only a look is wanted."""
        actors = await self._factory.actors()
        rows = {row.id: row for row in await self._store.list_hosts(include_dead=True)}
        known = [KnownHost(r.id, r.actor_name, r.status == "dead", r.reason) for r in rows.values()]
        found = orphans(actors, known, self._supervised, self._lead.lead.cluster)
        if dry_run or not found:
            return found
        await self._lead.confirm()
        for orphan in found:
            extra = {"action": "orphan_reaped", "kind": orphan.kind, "orphan": orphan.name}
            logger.warning("%s %s is ended: %s", orphan.kind, orphan.name, orphan.why, extra=extra)
            if orphan.kind == "actor":
                self._factory.kill(HostRef(orphan.name, orphan.name))
            else:
                await self._bury(rows[orphan.name], orphan.why)
        return found

    async def _bury(self, row: HostRow, why: str) -> None:
        self._factory.kill(HostRef(row.id, row.actor_name))
        dead = HostRow(row.id, row.pool, row.actor_name, "dead", reason=why)
        await self._store.put_host(dead)
