"""Removing apps: their types are free again, and their code is in no process any more.

A process cannot forget what it has imported, so the hosts of the app's pools are replaced, one
after the other, as for new code. What is kept is deleted at the end, when nobody can write it: an
app whose removal ends in the midst is a stopped one, and can be removed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from agentray.core.reconcile import HostStatus
from agentray.ids import SLOTS
from agentray.protocol.deployment import AppSpec
from agentray.runtime.catalog import STOPPED, Catalog
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import Placements
from agentray.runtime.quarantine import Quarantine
from agentray.runtime.redrive import Redriver
from agentray.runtime.seats import is_seat, pool_of
from agentray.runtime.topic_book import TopicBook
from agentray.runtime.tryout import TryOut
from agentray.store.base import Store

logger = logging.getLogger(__name__)

Load = Callable[[str, Mapping[str, bytes]], Awaitable[object]]


class AppRemoval:
    """Removes apps."""

    def __init__(  # noqa: PLR0913 - an app is known to all of these
        self,
        store: Store,
        catalog: Catalog,
        placements: Placements,
        hosts: Mapping[str, HostKeeper],
        try_out: TryOut,
        topics: TopicBook,
        quarantine: Quarantine,
        redriver: Redriver,
        *,
        reconciling: asyncio.Lock,
        load: Load,
        wake: Callable[[], None],
    ) -> None:
        """Made by the manager, which lets nobody deploy meanwhile."""
        self._store = store
        self._catalog = catalog
        self._placements = placements
        self._hosts = hosts
        self._try_out = try_out
        self._topics = topics
        self._quarantine = quarantine
        self._redriver = redriver
        self._reconciling = reconciling
        self._load = load
        self._wake = wake

    async def remove(self, name: str, *, delete_states: bool) -> None:
        """Remove an app, and what is kept of its agents except their states.

        Args:
            name: of the app.
            delete_states: their states, too.

        Raises:
            ConfigurationError: there is no such app, or agents of others live in a pool of its.
            StartFailed: new hosts of its pools do not come up; the app is stopped.
        """
        self._catalog.check_removable(name)
        await self._catalog.set_status(name, STOPPED)
        spec = self._catalog.apps[name].spec
        pools = self._catalog.named(spec)
        put_back = self._catalog.take_out(name)
        try:
            await self._vacate(spec, pools)
            await self._delete(spec, pools, delete_states=delete_states)
        except BaseException:
            put_back()
            self._placements.sync()
            self._wake()
            for pool in pools:  # hosts may have come without it
                await self._load(pool, self._catalog.code(pool))
            await self._placements.announce(set())
            raise
        logger.info("app %s was removed", name, extra={"action": "app_removed", "app": name})

    async def _vacate(self, spec: AppSpec, pools: set[str]) -> None:
        """Return when hosts without the app's code have its slots, and its own hosts are gone."""
        types = {type_name for type_name, *_ in spec.types}
        seats = self._placements.seats
        left = {seat for agent, seat in seats.by_agent().items() if agent.type in types}
        for seat in left:
            seats.free(seat)
        self._placements.sync()
        self._wake()
        await self._placements.announce()
        left |= {pool for pool in pools if pool not in self._placements.pools}
        await self._try_out.replace(spec.name, pools)
        while any(self._stops(keeper, left) for keeper in self._hosts.values()):
            await self._placements.news()

    def _stops(self, keeper: HostKeeper, left: set[str]) -> bool:
        place = keeper.pool if is_seat(keeper.pool) else pool_of(keeper.pool)
        gone = place in left and place not in self._placements.pools
        return gone and keeper.status is not HostStatus.STARTING

    async def _delete(self, spec: AppSpec, pools: set[str], *, delete_states: bool) -> None:
        types = [type_name for type_name, *_ in spec.types]
        for agent in [a for a in self._quarantine.quarantined if a.type in types]:
            await self._quarantine.release(agent)
        async with self._reconciling:
            # Where new hosts wait for room, the old ones have the slots, and might write.
            behind = [
                pool
                for pool in pools & self._placements.pools.keys()
                if not self._placements.leased(pool)
            ]
            await self._placements.renew({pool: range(SLOTS) for pool in behind})
            try:
                await self._store.delete_app(spec.name, types, states=delete_states)
                self._topics.forget(types)
            finally:
                await self._placements.announce()
        for pool in behind:
            self._redriver.slots_moved(pool, range(SLOTS))
