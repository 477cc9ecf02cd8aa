"""Trying out new code: slots move to its hosts a few at a time, and back when it is not healthy.

The hosts with the old code stay until all slots have moved and the last look found nothing wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from agentray.core.reconcile import HostStatus
from agentray.errors import StartFailed
from agentray.ids import SLOTS
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import Placements

logger = logging.getLogger(__name__)

SHARES = (SLOTS // 16, SLOTS // 4, SLOTS)
"""How many slots hosts with new code may have, one step after the other."""

BACK_S = 60.0
"""How long to wait for the slots to be back where the old code is."""

_LOOK_S = 0.2


class TryOut:
    """Replaces the code of pools step by step."""

    def __init__(
        self,
        placements: Placements,
        hosts: Mapping[str, HostKeeper],
        until_leased: Callable[[set[str]], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        """Made by the manager.

        Args:
            placements: of the pools.
            hosts: the manager's hosts by id.
            until_leased: waits until hosts with the newest code have all slots of pools.
            wake: lets the manager look at once.
        """
        self._placements = placements
        self._hosts = hosts
        self._until_leased = until_leased
        self._wake = wake
        self._under_way: dict[str, set[str]] = {}  # pools, by app

    def told(self) -> list[dict[str, Any]]:
        """Return how far it is with each app, as the status tells."""
        states = self._placements.pools
        return [
            {
                "app": app,
                "pools": {
                    name: {"slots": self._placements.moved(name), "of": states[name].trial or SLOTS}
                    for name in sorted(pools & states.keys())
                },
            }
            for app, pools in self._under_way.items()
        ]

    async def replace(self, app: str, pools: Collection[str]) -> None:
        """Move the slots of pools to hosts with new code, as long as these are healthy.

        Pools whose new hosts wait for room are not waited for.

        Raises:
            StartFailed: hosts do not come up, or are not healthy; the old ones have the slots.
        """
        states = self._placements.pools
        tried = {name for name in pools if name in states and not states[name].spec.isolated}
        before = {name: states[name].generation for name in pools if name in states}
        for name in before:
            states[name].replace_hosts()
        self._under_way[app] = tried
        try:
            for share in SHARES:
                for name in tried & states.keys():
                    states[name].trial = share
                self._wake()
                await self._until_moved(tried, share)
                await self._check(app, tried)
        except StartFailed as error:
            logger.error("new code of %s is taken back: %s", app, error, extra=_EXTRA)
            for name, generation in before.items():
                if name in states:
                    states[name].generation = generation
                    states[name].last_error = ""
            raise
        finally:
            del self._under_way[app]
            for name in tried & states.keys():
                states[name].trial = None
            self._wake()

    async def until_back(self, pools: set[str]) -> None:
        """Wait until the hosts with the old code have all slots again, for a while."""
        try:
            async with asyncio.timeout(BACK_S):
                await self._until_leased(pools)
        except (TimeoutError, StartFailed) as error:
            logger.warning("slots are not back: %s", error, extra=_EXTRA)

    async def _until_moved(self, pools: Collection[str], share: int) -> None:
        while not all(self._has(pool, share) for pool in pools):
            for name in pools:
                if name in self._placements.pools and self._placements.pools[name].last_error:
                    raise StartFailed(self._placements.pools[name].last_error)
            await self._news()

    def _has(self, pool: str, share: int) -> bool:
        if pool not in self._placements.pools or self._placements.shortage(pool) is not None:
            return True
        return self._placements.moved(pool) >= share

    async def _news(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._placements.news()
        except TimeoutError:
            return

    async def _check(self, app: str, pools: Collection[str]) -> None:
        """Ask all hosts with new code whether they are well.

        Raises:
            StartFailed: one of them is not.
        """
        fresh = [
            keeper
            for keeper in list(self._hosts.values())
            if keeper.pool in pools
            and keeper.status is HostStatus.LIVE
            and keeper.generation == self._placements.pools[keeper.pool].generation
        ]
        for answer in await asyncio.gather(*(keeper.check(app) for keeper in fresh)):
            if answer:
                raise StartFailed(f"The new code of {app!r} is not healthy: {answer}")


_EXTRA = {"action": "try_out"}
