"""The area of the Store that says which manager works, and refuses what others write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agentray.core.leadership import Lead

if TYPE_CHECKING:
    from agentray.store.base import Store


class LeadershipStore(Protocol):
    """Who leads. Decisions are in `core.leadership`."""

    async def read_lead(self) -> tuple[Lead | None, float]:
        """Return who leads, if anybody ever has, and the Store's time in seconds."""
        ...

    async def write_lead(self, lead: Lead, *, instead_of: Lead | None) -> bool:
        """Write who leads, if the row is still the one that was found; False: it is not.

        Args:
            lead: to be written.
            instead_of: as it was found; None: there was none.
        """
        ...

    def as_manager(self, epoch: int) -> Store:
        """Return the same Store for the manager that leads with this epoch.

        Whatever is written through it, and that only the manager may write, is refused with
        `ManagerSuperseded` once another one leads: check and effect are one transaction.
        The caller opens and closes it; closing it leaves this one open.
        """
        ...
