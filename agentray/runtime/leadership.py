"""Leadership of one manager: it is gained before anything else is done, renewed, and lost once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Self

from agentray.core.leadership import (
    LEASE_S,
    RENEW_S,
    Candidate,
    Lead,
    Take,
    Wait,
    Yield,
    claim,
    given_up,
    renew,
)
from agentray.errors import ManagerSuperseded, StoreUnavailable
from agentray.ids import new_id
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store

logger = logging.getLogger(__name__)

_STORE_RETRY_S = 0.5


class Leadership:
    """The lead of the manager that works.

    Attributes:
        store: through which the manager writes: refused once another one leads.
        lead: as it was last written.
        lost: why it does not lead any more; None: it does, as far as it knows.
    """

    def __init__(self, store: Store, lead: Lead, since: float) -> None:
        """Made by `gain`."""
        self.store = store.as_manager(lead.epoch)
        self.lead = lead
        self.lost: ManagerSuperseded | None = None
        self._other: asyncio.Future[Lead | None] = asyncio.get_running_loop().create_future()
        self._all = store
        self._since = since
        self._renewing = asyncio.Lock()
        self._tasks = TaskSet("leadership")

    @classmethod
    async def gain(cls, store: Store, candidate: Candidate) -> Self:
        """Take the lead; waits until nobody else has it.

        Args:
            store: open.
            candidate: the manager.

        Raises:
            ManagerSuperseded: another manager works.
            StoreUnavailable: the Store cannot be reached.
        """
        cluster = new_id("cluster")
        seen: Lead | None = None
        while True:
            since = asyncio.get_running_loop().time()
            found, now = await store.read_lead()
            match claim(candidate, found, seen, now, cluster):
                case Yield(other):
                    extra = {"action": "manager_yields", "working": other.about}
                    logger.error("another manager works: %s", other.about, extra=extra)
                    raise ManagerSuperseded(other.about)
                case Wait(seconds):
                    if seen is None and found is not None:
                        extra = {"action": "manager_waits", "leads": found.about}
                        logger.warning("waits for the lead of %s", found.about, extra=extra)
                    seen = seen or found
                    await asyncio.sleep(seconds)
                case Take(lead):
                    if await store.write_lead(lead, instead_of=found):
                        gained = cls(store, lead, since)
                        await gained.store.open()
                        extra = {"action": "manager_leads", "epoch": lead.epoch}
                        logger.info("leads with epoch %d", lead.epoch, extra=extra)
                        return gained

    @property
    def epoch(self) -> int:
        """Of its lead."""
        return self.lead.epoch

    def keep(self, on_lost: Callable[[], None]) -> None:
        """Renew it from now on.

        Args:
            on_lost: called once, when another manager leads.
        """
        self._tasks.spawn(self._keep(on_lost), name="keep the lead")

    async def _keep(self, on_lost: Callable[[], None]) -> None:
        while not (await asyncio.wait((self._other,), timeout=RENEW_S))[0]:
            try:
                await self._renew()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "lead_not_renewed"})
            except ManagerSuperseded:
                break
            except Exception:
                # Unless it is renewed, others take the lead of a manager that is at work.
                logger.exception("the lead was not renewed", extra={"action": "lead_not_renewed"})
        on_lost()

    async def confirm(self) -> None:
        """Return when it is certain that no other manager works, before what cannot be undone.

        Waits while the Store cannot be reached.

        Raises:
            ManagerSuperseded: another one leads.
        """
        while self._age() > LEASE_S - RENEW_S:
            try:
                await self._renew()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "manager_waits_for_store"})
                await asyncio.sleep(_STORE_RETRY_S)
        self.check()

    def check(self) -> None:
        """Raise `ManagerSuperseded` when it is known that another manager leads."""
        if self.lost is not None:
            raise self.lost

    def _age(self) -> float:
        """Return the seconds since it was certain, as this process counts them."""
        return asyncio.get_running_loop().time() - self._since

    async def _renew(self) -> None:
        async with self._renewing:
            self.check()
            while True:
                since = asyncio.get_running_loop().time()
                found, now = await self._all.read_lead()
                match renew(self.lead, found, now):
                    case Take(lead):
                        if await self._all.write_lead(lead, instead_of=found):
                            self.lead, self._since = lead, since
                            return
                    case Yield(other):
                        raise self._superseded(other)
                    case None:
                        raise self._superseded(None)

    async def until_lost(self) -> Lead | None:
        """Wait until another manager leads; return its lead, None if the Store has lost it."""
        return await asyncio.shield(self._other)

    def _superseded(self, other: Lead | None) -> ManagerSuperseded:
        working = other.about if other else ""
        self._other.set_result(other)
        self.lost = ManagerSuperseded(working)
        extra = {"action": "manager_superseded", "working": working, "epoch": self.epoch}
        logger.error("%s", self.lost, extra=extra)
        return self.lost

    async def give_up(self) -> None:
        """End it, so that the next manager need not wait."""
        await self._tasks.close()
        try:
            if self.lost is None:
                found, now = await self._all.read_lead()
                if found is not None and found.epoch == self.epoch:
                    await self._all.write_lead(given_up(found, now), instead_of=found)
        except StoreUnavailable as error:  # then it runs out
            logger.warning("%s", error, extra={"action": "lead_not_given_up"})
        await self.store.close()

    async def abandon(self) -> None:
        """Renew it no more, as the end of the process would."""
        await self._tasks.close()
        await self.store.close()
