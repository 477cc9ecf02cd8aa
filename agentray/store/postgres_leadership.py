"""Which manager works, in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentray.core.leadership import Lead
from agentray.store.database import Database

if TYPE_CHECKING:
    from agentray.store.base import Store


class PostgresLeadership:
    """A `LeadershipStore` in PostgreSQL.

    The sessions of the manager's own connections name its epoch; triggers compare that with the
    row, and lock the row, before anything is written (see the function in the migrations).
    """

    _database: Database

    async def read_lead(self) -> tuple[Lead | None, float]:
        """Return who leads, if anybody ever has, and the Store's time in seconds."""
        (row,) = await self._database.fetch("read_lead")
        if row["epoch"] is None:
            return None, row["now"]
        about = row["epoch"], row["place"], row["about"], row["renewals"], row["expires_at"]
        return Lead(*about, row["cluster"]), row["now"]

    async def write_lead(self, lead: Lead, *, instead_of: Lead | None) -> bool:
        """Write who leads, if the row is still the one that was found."""
        about = (lead.epoch, lead.place, lead.about, lead.renewals, lead.expires_at, lead.cluster)
        found = (0, 0) if instead_of is None else (instead_of.epoch, instead_of.renewals)
        return bool(await self._database.fetch_value("write_lead", *about, *found))

    def as_manager(self, epoch: int) -> Store:
        """Return the same Store for the manager that leads with this epoch."""
        from agentray.store.postgres import PostgresStore

        return PostgresStore.on(self._database.as_manager(epoch))
