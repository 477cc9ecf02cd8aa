"""Whoever looks whether the manager works: hosts and gateway replicas.

Ray starts the manager again when its process dies, and notices nothing when it hangs. Nor does it
when somebody has ended the actor for good. The lead that the manager has to renew in the Store
tells: who finds it run out has the process ended, or a manager made where there is none any more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from agentray.core.leadership import LEASE_S, RENEW_S, Lead, Standing, depose
from agentray.errors import StoreUnavailable
from agentray.store.leadership import LeadershipStore

logger = logging.getLogger(__name__)

LOOK_S = 2 * RENEW_S
"""Between two looks a manager that works has renewed its lead, also after the Store was away."""


class ManagerMaker(Protocol):
    """What brings a manager back."""

    async def standing(self, lead: Lead) -> Standing:
        """Return what is there of the manager that has this lead."""
        ...

    async def restart(self, lead: Lead) -> None:
        """End the process of the manager that has this lead; it is started again."""
        ...

    async def make(self) -> None:
        """Make one where there is none; nothing, where somebody else was quicker."""
        ...


class ManagerWatch:
    """Has a manager restarted that does not renew its lead, and made anew when it is gone."""

    def __init__(self, store: LeadershipStore, maker: ManagerMaker) -> None:
        """Make one; `run` lets it look.

        Args:
            store: where managers renew their lead.
            maker: brings it back.
        """
        self._store = store
        self._maker = maker
        self._seen: Lead | None = None
        self._heard_at = -LEASE_S

    def heard(self) -> None:
        """Note a word of the manager's: while it speaks, nobody needs to ask the Store."""
        self._heard_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Look, until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            if loop.time() - self._heard_at < LEASE_S:
                self._seen = None
            else:
                try:
                    await self._look()
                except Exception:
                    # Who else would find out that there is no manager any more?
                    logger.exception("the look failed", extra={"action": "look_failed"})

    async def _look(self) -> None:
        try:
            found, now = await self._store.read_lead()
            deposed = depose(found, self._seen, now)
            self._seen = found
            if deposed is None or found is None:
                return
            match await self._maker.standing(found):
                case Standing.NOBODY:
                    # Its lead has run out, so whoever comes takes it at once.
                    extra = {"action": "manager_made_anew", "manager": found.about}
                    logger.error("%s is gone for good: made anew", found.about, extra=extra)
                    await self._maker.make()
                    return
                case Standing.ANOTHER:
                    return  # it was just made
                case Standing.ITSELF:
                    pass
            if not await self._store.write_lead(deposed, instead_of=found):
                return  # it has woken up, or somebody else was quicker
        except StoreUnavailable:
            self._seen = None
            return
        extra = {"action": "manager_restarted", "manager": found.about, "epoch": deposed.epoch}
        logger.error("%s does not renew its lead: restarted", found.about, extra=extra)
        await self._maker.restart(found)
